"""What disturbances do to decisions, against full logits, simulated noise and plain loops."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import unembed.training.robustness.read_outs as module
from made_up.corpora import TEXTS
from unembed import Corpus
from unembed.decisions import AuditOptions
from unembed.decisions.comparison.live import audit_both
from unembed.errors import NonFiniteError, UnembedError
from unembed.models.checkpoint import Checkpoint, load
from unembed.models.quantization import quantized, torchao_is_there
from unembed.runs.record import record_from_json, record_to_json
from unembed.stats.bootstrap import interval_levels, resample_weights
from unembed.stats.student import student_t
from unembed.training.robustness.comparison import RobustnessComparison, compare_read_outs
from unembed.training.robustness.logit_noise import noise_flips
from unembed.training.robustness.read_outs import CHANGES, Disturbance, Noise, ReadOuts, read_outs

CONTEXT = 24
OPTIONS = AuditOptions(context=CONTEXT, batch_tokens=64, part_positions=40)
PLAIN = tuple(name for name in CHANGES if torchao_is_there() or not name.startswith("int"))


@pytest.fixture(scope="module")
def corpus(tokenizer: Any) -> Corpus:
    return Corpus.from_texts(TEXTS, tokenizer)


@pytest.fixture(scope="module")
def first(llama: Any, tokenizer: Any) -> Checkpoint:
    return Checkpoint("first", llama, tokenizer)


@pytest.fixture(scope="module")
def second(llama: Any, tokenizer: Any) -> Checkpoint:
    """The same model with a hidden state a third as long before its head: smaller margins."""
    other = copy.deepcopy(llama)
    with torch.no_grad():
        other.model.norm.weight /= 3
    return Checkpoint("second", other, tokenizer)


@pytest.fixture(scope="module")
def found(first: Checkpoint, corpus: Corpus) -> ReadOuts:
    return read_outs(first, corpus, options=OPTIONS)


@pytest.fixture(scope="module")
def softer(second: Checkpoint, corpus: Corpus) -> ReadOuts:
    return read_outs(second, corpus, options=OPTIONS)


def simulated(logits: torch.Tensor, deviation: float, draws: int, seed: int) -> list[float]:
    """How often noise on every logit moves the argmax, position by position."""
    generator = torch.Generator().manual_seed(seed)
    shares = []
    for row in logits.double():
        noise = torch.randn(draws, len(row), generator=generator, dtype=torch.float64)
        moved = (row + deviation * noise).argmax(1) != row.argmax()
        shares.append(float(moved.double().mean()))
    return shares


def top(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return logits.sort(dim=1, descending=True).values[:, :k], logits.logsumexp(1)


@pytest.mark.parametrize(("spread", "deviation"), [(3.0, 0.25), (1.0, 0.5), (2.0, 1.0), (1.0, 3.0)])
def test_the_chance_of_a_flip_is_the_share_of_simulated_ones(
    spread: float, deviation: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(8, 60, generator=generator)
    draws = 20_000
    shares = simulated(logits, deviation, draws, 1)
    assert 0.02 < np.mean(shares) < 0.98
    for k in (60, 32, 4):
        chance, neglected = noise_flips(*top(logits, k), deviation)
        for share, low, more in zip(shares, chance.tolist(), neglected.tolist(), strict=True):
            error = 4 * math.sqrt(share * (1 - share) / draws) + 1e-4
            assert low - error <= share <= low + more + error
            assert k < 60 or more < 1e-4
            assert low + more <= 1 + 1e-9


def test_the_bound_on_what_is_neglected_is_close_with_many_candidates() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2.5 * torch.randn(50, 3000, generator=generator)
    whole, _ = noise_flips(*top(logits, 3000), 1.0)
    for k in (2, 8, 64):
        chance, neglected = noise_flips(*top(logits, k), 1.0)
        assert bool((chance <= whole + 1e-9).all())
        assert bool((whole <= chance + neglected + 1e-9).all())
    assert 1e-9 < float((whole - chance).mean()) < float(neglected.mean()) < 0.01


@pytest.mark.parametrize("far", [0.2, 1.0, 4.0, 9.0])
@pytest.mark.parametrize("deviation", [0.5, 3.0])
def test_the_bound_holds_wherever_the_neglected_token_lies(far: float, deviation: float) -> None:
    logits = torch.tensor([[0.0, -0.1, -far]])
    whole, _ = noise_flips(*top(logits, 3), deviation)
    chance, neglected = noise_flips(*top(logits, 2), deviation)
    assert float(chance) <= float(whole) + 1e-9 <= float(chance + neglected) + 2e-9


def test_no_noise_flips_nothing_and_much_noise_almost_everything() -> None:
    logits = torch.tensor([[3.0, 3.0, 1.0], [5.0, 1.0, 0.0]])
    assert [column.tolist() for column in noise_flips(*top(logits, 3), 0.0)] == [[0, 0], [0, 0]]
    # Two equal logits and a third that nothing can lift: a coin.
    tie = torch.tensor([[3.0, 3.0, -99.0]])
    assert float(noise_flips(*top(tie, 3), 0.5)[0]) == pytest.approx(0.5, abs=1e-9)
    pair = torch.tensor([[2.0, 1.0]])
    wanted = math.erfc(1 / (0.7 * math.sqrt(2)) / math.sqrt(2)) / 2
    assert float(noise_flips(*top(pair, 2), 0.7)[0]) == pytest.approx(wanted, abs=1e-8)
    assert noise_flips(*top(logits, 3), 1e4)[0].tolist() == pytest.approx([2 / 3] * 2, abs=1e-3)


def full(checkpoint: Checkpoint, corpus: Corpus) -> tuple[torch.Tensor, torch.Tensor]:
    """Every position's final hidden state and logits of the tokens, a window at a time."""
    hiddens, logits = [], []
    weight = checkpoint.model.get_output_embeddings().weight.detach()
    for row in range(corpus.rows):
        ids = torch.tensor(corpus.ids[corpus.starts[row] : corpus.starts[row + 1]]).long()
        for start in range(0, len(ids) - 1, CONTEXT):
            window = ids[start : start + CONTEXT + 1][None, :-1]
            with torch.no_grad():
                hiddens.append(checkpoint.model.model(input_ids=window).last_hidden_state[0])
            logits.append(hiddens[-1].double() @ weight.double().T)
    return torch.cat(hiddens), torch.cat(logits)[:, : len(corpus.tokenizer)]


def test_changes_are_those_of_full_logits(
    first: Checkpoint, corpus: Corpus, found: ReadOuts
) -> None:
    hidden, plain = full(first, corpus)
    weight = first.model.get_output_embeddings().weight.detach()
    narrow = copy.deepcopy(first.model)
    for parameter in narrow.parameters():
        parameter.data = parameter.data.bfloat16()
    rounded = hidden.bfloat16().double() @ weight.bfloat16().double().T
    tokens = plain.shape[1]
    disturbed = {
        "bfloat16": full(Checkpoint("narrow", narrow, first.tokenizer), corpus)[1],
        "bfloat16 head": rounded[:, :tokens],
        "bfloat16 logits": rounded[:, :tokens].float().bfloat16().double(),
    }
    if "int8" in PLAIN:
        disturbed |= {name: full(quantized(first, name), corpus)[1] for name in ("int8", "int4")}
    assert set(found.changes) == set(disturbed) == set(PLAIN)
    assert found.skipped == {} or "int8" not in PLAIN
    p = plain.log_softmax(1)
    for name, logits in disturbed.items():
        change, q = found.changes[name], logits.log_softmax(1)
        flips = [int(a.argmax()) != int(b.argmax()) for a, b in zip(plain, logits, strict=True)]
        assert change.flipped.tolist() == flips, name
        if name == "bfloat16 logits":
            assert change.acceptance is change.kl is None
            continue
        assert change.acceptance is not None
        assert change.kl is not None
        # Two products in bfloat16 of other shapes may differ by a rounding.
        slack = 2e-3 if name == "bfloat16" else 1e-5
        accepted = torch.minimum(p.exp(), q.exp()).sum(1)
        np.testing.assert_allclose(change.acceptance, accepted, atol=slack, err_msg=name)
        np.testing.assert_allclose(change.kl, (p.exp() * (p - q)).sum(1), atol=slack, err_msg=name)
        assert change.kl.mean() > 0
    if "int4" in PLAIN:
        assert 3 < found.changes["int8"].flipped.sum() < found.changes["int4"].flipped.sum()
    for noise in found.noise:
        shares = simulated(plain[:40], noise.deviation, 2000, 3)
        errors = [4 * math.sqrt(s * (1 - s) / 2000) + 2e-3 for s in shares]
        assert (np.abs(noise.chance[:40] - shares) < np.array(errors) + noise.neglected[:40]).all()
    assert [one.deviation for one in found.noise] == [0.25, 0.5, 1.0]


def test_rows_are_those_of_an_audit_and_bfloat16_is_the_checkpoint_loaded_in_it(
    llama_folder: Path, first: Checkpoint, corpus: Corpus, found: ReadOuts
) -> None:
    both = audit_both(first, load(llama_folder, dtype="bfloat16"), corpus, OPTIONS)
    assert found.doc.tolist() == both.before.column("doc").tolist()
    assert found.pos.tolist() == both.before.column("pos").tolist()
    change = found.changes["bfloat16"]
    assert change.acceptance is not None
    flipped = both.before.column("top1") != both.after.column("top1")
    assert change.flipped.tolist() == flipped.tolist()
    apart = both.divergence["total_variation"].to_numpy()
    np.testing.assert_allclose(change.acceptance, 1 - apart, atol=1e-6)


def test_the_model_stays_as_it_is(llama: Any, first: Checkpoint, corpus: Corpus) -> None:
    before = {name: value.clone() for name, value in llama.state_dict().items()}
    few = replace(OPTIONS, max_positions=10)
    some = read_outs(first, corpus, options=few, changes=("bfloat16",), noise=(0.0,))
    assert len(some.doc) == 10
    assert list(some.changes) == ["bfloat16"]
    assert some.noise[0].chance.tolist() == [0.0] * 10
    for name, value in llama.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_a_table_keeps_everything(found: ReadOuts, tmp_path: Path) -> None:
    pq.write_table(found.to_table(), tmp_path / "read-outs.parquet")
    back = ReadOuts.from_table(pq.read_table(tmp_path / "read-outs.parquet"))
    assert back.to_table().equals(found.to_table(), check_metadata=True)
    assert back.provenance == found.provenance
    assert list(back.changes) == list(found.changes)
    assert back.changes["bfloat16 logits"].kl is None
    assert back.noise[2].deviation == 1.0
    assert back.noise[2].chance.tolist() == found.noise[2].chance.tolist()
    with pytest.raises(UnembedError, match="columns a holds no read-outs"):
        ReadOuts.from_table(pa.table({"a": [1]}))


def test_without_torchao_its_changes_are_skipped_with_a_reason(
    first: Checkpoint, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "torchao_is_there", lambda: False)
    few = replace(OPTIONS, max_positions=10)
    some = read_outs(first, corpus, options=few, changes=("int8", "bfloat16 head"), noise=())
    assert list(some.changes) == ["bfloat16 head"]
    assert list(some.skipped) == ["int8"]
    assert "pip install" in some.skipped["int8"]


def test_what_is_refused(first: Checkpoint, corpus: Corpus) -> None:
    with pytest.raises(UnembedError, match=r"'int5' .*int8, int4, bfloat16"):
        read_outs(first, corpus, changes=("int5",))
    with pytest.raises(UnembedError, match=r"noise -0\.5 "):
        read_outs(first, corpus, noise=(-0.5,))
    broken = copy.deepcopy(first.model)
    with torch.no_grad():
        token = int(corpus.ids[3])
        broken.model.embed_tokens.weight[token] = torch.inf
    with pytest.raises(NonFiniteError, match=r"broken gives logits .* doc \d+ position \d+"):
        read_outs(Checkpoint("broken", broken, None), corpus, changes=(), noise=())


def made(base: ReadOuts, seed: int, rate: float) -> ReadOuts:
    """Read-outs with one random change of 400 positions in 8 documents, and one noise."""
    generator = np.random.default_rng(seed)
    n = 400
    doc = np.arange(n) * 8 // n
    share = generator.uniform(0.5, 1, n)
    return ReadOuts(
        replace(base.provenance, model=f"seed {seed}", model_digest=f"digest {seed}"),
        doc.astype(np.int32),
        np.arange(n, dtype=np.int32),
        {
            "int8": Disturbance(generator.random(n) < rate * (1 + doc / 8), share, 1 - share),
            "rare": Disturbance(np.arange(n) % 45 == 0, None, None),
        },
        (Noise(0.5, generator.random(n) * rate, np.full(n, 0.001)),),
        {},
    )


def recounted(before: list[np.ndarray], after: list[np.ndarray], doc: np.ndarray) -> dict[str, Any]:
    """Means, difference and ratio of a measure with their intervals, resample by resample."""

    def figures(weight: np.ndarray) -> list[float]:
        old, new = (
            sum(float((weight * one).sum()) for one in side) / len(side) / float(weight.sum())
            for side in (before, after)
        )
        return [old, new, new - old, new / old]

    draws = []
    for rows in resample_weights(8, resamples=300, seed=5):
        draws += [figures(row[doc]) for row in rows]
    ends = np.quantile(np.array(draws), interval_levels(8), axis=0)
    names = ("before", "after", "difference", "ratio")
    values = figures(np.ones(len(doc)))
    return {name: (values[i], *ends[:, i].tolist()) for i, name in enumerate(names)}


def told(estimate: Any) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def test_a_comparison_is_the_plain_count_with_paired_resamples(found: ReadOuts) -> None:
    old, new = made(found, 1, 0.2), made(found, 2, 0.1)
    got = compare_read_outs([old], [new], resamples=300, seed=5)
    assert (got.n, got.documents, got.seeds) == (400, 8, (1, 1))
    change = got.changes[0]
    assert change.flips_before == int(old.changes["int8"].flipped.sum()) > 60
    assert change.flips_after == int(new.changes["int8"].flipped.sum())
    assert change.acceptance is not None
    assert change.kl is not None
    assert got.changes[1].acceptance is got.changes[1].kl is None
    flipped, accepted, kl = (
        recounted(
            [np.asarray(getattr(old.changes["int8"], name), dtype=float)],
            [np.asarray(getattr(new.changes["int8"], name), dtype=float)],
            old.doc,
        )
        for name in ("flipped", "acceptance", "kl")
    )
    chance = recounted([old.noise[0].chance], [new.noise[0].chance], old.doc)
    for shift, wanted in (
        (change.flips, flipped),
        (change.acceptance, accepted),
        (change.kl, kl),
        (got.noise[0].flips, chance),
    ):
        for name in ("before", "after", "difference"):
            assert told(getattr(shift, name)) == pytest.approx(wanted[name], rel=1e-9), name
            assert getattr(shift, name).n == 400
    assert told(change.ratio) == pytest.approx(flipped["ratio"], rel=1e-9)
    assert told(got.noise[0].ratio) == pytest.approx(chance["ratio"], rel=1e-9)
    assert (got.noise[0].neglected_before, got.noise[0].neglected_after) == pytest.approx(
        (0.001,) * 2
    )
    assert got.changes[1].ratio.value is None
    assert got.changes[1].ratio.reason == "9 flips before and 9 after; a ratio needs 10 of each"
    written = json.dumps(record_to_json(got))
    assert record_from_json(RobustnessComparison, json.loads(written)) == got


def test_several_seeds_widen_the_intervals(found: ReadOuts) -> None:
    olds, news = [made(found, s, 0.2) for s in (1, 2, 3)], [made(found, s, 0.1) for s in (4, 5)]
    got = compare_read_outs(olds, news, resamples=300, seed=5)
    assert got.seeds == (3, 2)
    columns = [
        [np.asarray(one.changes["int8"].flipped, dtype=float) for one in side]
        for side in (olds, news)
    ]
    wanted = recounted(*columns, olds[0].doc)
    change = got.changes[0]
    assert change.flips_before == sum(int(column.sum()) for column in columns[0])
    assert (change.flips.before.n, change.flips.after.n) == (1200, 800)
    theta = np.array([[new.mean() - old.mean() for new in columns[1]] for old in columns[0]])
    half = 0.0
    for axis, runs in ((1, 3), (0, 2)):
        half += student_t(runs - 1) ** 2 * theta.mean(axis).var(ddof=1) / runs
    value, low, high = wanted["difference"]
    ends = value - math.hypot(value - low, half**0.5), value + math.hypot(high - value, half**0.5)
    assert told(change.flips.difference) == pytest.approx((value, *ends), rel=1e-9)
    assert change.ratio.value == pytest.approx(wanted["ratio"][0], rel=1e-12)
    # 27 flips in all, but 9 in each single run.
    assert got.changes[1].ratio.value == pytest.approx(1.0)
    assert got.changes[1].ratio.low is None
    assert "single pair" in str(got.changes[1].ratio.reason)


def test_the_same_model_differs_by_nothing(found: ReadOuts, softer: ReadOuts) -> None:
    same = compare_read_outs([found], [found], resamples=200)
    for one in (*same.changes, *same.noise):
        assert told(one.flips.difference) == (0.0, 0.0, 0.0)
        assert one.flips.before == one.flips.after
        assert one.ratio.value == 1.0 or one.ratio.reason is not None
    assert told(same.noise[2].ratio) == (1.0, 1.0, 1.0)
    # A third of the margins: more flips under the same noise.
    moved = compare_read_outs([found], [softer], resamples=200)
    assert moved.noise[1].ratio.low is not None
    assert moved.noise[1].ratio.low > 1.2
    # The change is a temperature: rounding flips as often as before.
    assert moved.changes[0].flips.difference.value == pytest.approx(0.0, abs=0.03)


def test_read_outs_that_cannot_be_compared(
    found: ReadOuts, softer: ReadOuts, first: Checkpoint, tokenizer: Any
) -> None:
    with pytest.raises(UnembedError, match="no read-outs after"):
        compare_read_outs([found], [])
    with pytest.raises(UnembedError, match="first and first, both after"):
        compare_read_outs([softer], [found, found])
    few = replace(OPTIONS, max_positions=10)
    other = Corpus.from_texts(["Another text of a few words, and no more than that."], tokenizer)
    elsewhere = read_outs(first, other, options=few, changes=(), noise=())
    here = replace(found, changes={}, noise=())
    with pytest.raises(UnembedError, match=r"text \(digest\)"):
        compare_read_outs([here], [elsewhere])
    text = replace(found.provenance.text, context=12)
    shorter = replace(found, provenance=replace(found.provenance, text=text))
    with pytest.raises(UnembedError, match="context, 24 and 12"):
        compare_read_outs([found], [shorter])
    with pytest.raises(UnembedError, match="differ in their noise"):
        compare_read_outs([found], [replace(softer, noise=())])
    with pytest.raises(UnembedError, match="differ in their changes"):
        compare_read_outs([found], [replace(softer, changes={})])
