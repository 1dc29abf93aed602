"""One base and several variants: each row as that pair's own comparison and as a recount."""

from __future__ import annotations

import copy
import gc
import json
import shutil
import weakref
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.normalizers import Lowercase

from killing import killed_at
from made_up.corpora import TEXTS
from made_up.gguf_files import write_gguf
from reference.ladder import Recount, recount
from unembed import Comparison, Corpus, compare
from unembed.decisions import AuditOptions
from unembed.decisions.comparison.live import audit_both
from unembed.decisions.ladder.ladder import Ladder, ladder
from unembed.decisions.ladder.states import KeptStates
from unembed.decisions.ladder.variants import Variant
from unembed.errors import UnembedError
from unembed.models.adapters import load_whole
from unembed.models.checkpoint import Checkpoint
from unembed.runs import files
from unembed.runs.store import RunFolder

OPTIONS = AuditOptions(top_k=3, context=24, batch_tokens=128, part_positions=300)
SOME = [f"{text} {word}." for text in TEXTS for word in ("again", "and more of it", "no")]
RESAMPLES = 200


@pytest.fixture(scope="module")
def corpus(tokenizer: Any) -> Corpus:
    return Corpus.from_texts(SOME, tokenizer)


def moved(llama: Any, size: float, seed: int) -> Any:
    other = copy.deepcopy(llama)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return other


@pytest.fixture(scope="module")
def models(llama: Any, checkpoint: Callable[..., Path]) -> dict[str, Path]:
    """The base and two variants of it on disk."""
    variants = {"base": llama, "near": moved(llama, 0.01, 1), "far": moved(llama, 0.05, 2)}
    return {name: checkpoint(model) for name, model in variants.items()}


@pytest.fixture(scope="module")
def base(models: dict[str, Path]) -> Variant:
    return Variant("base", str(models["base"]))


@pytest.fixture(scope="module")
def variants(models: dict[str, Path], base: Variant) -> list[Variant]:
    given = [Variant.of(f"{name}={models[name]}") for name in ("near", "far")]
    return [*given, base.rounded("bf16")]


@pytest.fixture(scope="module")
def found(
    base: Variant,
    variants: list[Variant],
    corpus: Corpus,
    tmp_path_factory: pytest.TempPathFactory,
) -> Ladder:
    out = tmp_path_factory.mktemp("ladder") / "run"
    return ladder(base, variants, corpus, OPTIONS, out=out, resamples=RESAMPLES)


def pairwise(base: Variant, variant: Variant, corpus: Corpus) -> Comparison:
    both = [one.open()[0] for one in (base, variant)]
    live = audit_both(both[0], both[1], corpus, OPTIONS)
    return compare(live.before, live.after, divergence=live.divergence, resamples=RESAMPLES)


def test_every_comparison_is_that_of_the_pair_alone(
    base: Variant, variants: list[Variant], corpus: Corpus, found: Ladder
) -> None:
    """Bit for bit: columns, divergences, summary and provenance."""
    for variant in variants:
        alone, within = pairwise(base, variant, corpus), found.comparison(variant.name)
        assert within.table.equals(alone.table)
        assert within.summary == alone.summary
        assert within.provenance == alone.provenance


def test_every_row_is_that_of_its_comparison(found: Ladder) -> None:
    for row in found.summary.rows:
        summary = found.comparison(row.name).summary
        apart = summary.divergence
        assert apart is not None
        kl = apart.kl_forward
        assert (row.kl_mean, row.kl_median, row.kl_high) == (kl.mean, kl.median, kl.high)
        assert (row.kl_extreme, row.kl_largest) == (kl.extreme, kl.largest)
        assert row.net == summary.flips.net
        assert row.accuracy_difference == summary.flips.accuracy_difference
        churn = summary.flips.churn
        assert row.same_top.value == pytest.approx(1 - churn.value)
        assert (row.same_top.low, row.same_top.high) == pytest.approx(
            (1 - churn.high, 1 - churn.low)
        )


def test_rows_and_pairs_are_those_of_whole_logits(
    base: Variant, variants: list[Variant], corpus: Corpus, found: Ladder
) -> None:
    whole = base.open()[0].model
    recounts: dict[str, Recount] = {}
    for variant in variants[:2]:  # of the third, in bfloat16, a forward pass rounds its logits
        own = recount(whole, variant.open()[0].model, corpus, OPTIONS.context or 0)
        recounts[variant.name] = own
        row = next(row for row in found.summary.rows if row.name == variant.name)
        kl = np.array(own.kl)
        assert row.n == kl.size
        assert row.kl_mean.value == pytest.approx(kl.mean(), rel=1e-4)
        assert row.kl_largest == pytest.approx(kl.max(), rel=1e-4)
        for estimate, level in ((row.kl_median, 0.5), (row.kl_high, 0.99), (row.kl_extreme, 0.999)):
            assert estimate is not None
            assert estimate.value == pytest.approx(np.quantile(kl, level), rel=1e-4)
        assert (row.wrong_to_right, row.right_to_wrong) == own.flips
        assert row.same_top.value == pytest.approx(np.mean(own.same))
        assert row.perplexity_ratio.value == pytest.approx(own.perplexity_ratio, rel=1e-5)
    [pair] = [one for one in found.summary.pairs if (one.first, one.second) == ("near", "far")]
    near, far = recounts["near"], recounts["far"]
    accuracy = np.mean(far.right_after) - np.mean(near.right_after)
    assert pair.accuracy.value == pytest.approx(accuracy, abs=1e-9)
    assert pair.nll_nats.value == pytest.approx(np.mean(far.nll_after) - np.mean(near.nll_after))
    assert pair.kl_nats.value == pytest.approx(np.mean(far.kl) - np.mean(near.kl), rel=1e-4)
    assert pair.kl_nats.low is not None
    assert pair.kl_nats.low > 0


def test_every_pair_is_there_once(found: Ladder) -> None:
    names = [one.name for one in found.summary.variants]
    assert [(one.first, one.second) for one in found.summary.pairs] == [*combinations(names, 2)]


def test_it_is_opened_again_and_prints_a_line_a_variant(found: Ladder) -> None:
    assert found.folder is not None
    again = Ladder.load(found.folder)
    assert again == found
    lines = str(again).splitlines()
    assert [line.split()[0] for line in lines] == ["variant", "near", "far", "bf16"]
    assert set(again.sub_runs) == {"base", "near", "far", "bf16"}
    assert not (found.folder / "states").exists()


def test_one_body_is_in_memory_at_a_time(
    base: Variant, variants: list[Variant], corpus: Corpus, tmp_path: Path
) -> None:
    bodies: list[weakref.ref[Any]] = []

    def opened(name: str, **loading: Any) -> Checkpoint:
        gc.collect()
        assert not [one for one in bodies if one() is not None]
        made = load_whole(name, **loading)
        bodies.append(weakref.ref(made.model.model))
        return made

    first, *others = (replace(one, opened=opened) for one in (base, *variants[:2]))
    ladder(first, others, corpus, OPTIONS, out=tmp_path / "run", resamples=20)
    assert len(bodies) == 3


@pytest.fixture(scope="module")
def calm(base: Variant, variants: list[Variant], corpus: Corpus, tmp_path_factory: Any) -> Ladder:
    """A ladder of one variant that nothing interrupts."""
    out = tmp_path_factory.mktemp("calm")
    return ladder(base, variants[:1], corpus, OPTIONS, out=out, resamples=20)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


@pytest.mark.parametrize("after", [2, 7, 12])
def test_a_killed_ladder_goes_on_to_the_same_bytes(
    after: int,
    base: Variant,
    variants: list[Variant],
    corpus: Corpus,
    calm: Ladder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run() -> Ladder:
        return ladder(base, variants[:1], corpus, OPTIONS, out=tmp_path, resamples=20)

    with killed_at(monkeypatch, RunFolder, "write_table", after):
        run()
    assert run() == calm
    assert calm.folder is not None
    assert contents(tmp_path) == contents(calm.folder)


def test_a_finished_ladder_takes_further_variants(
    base: Variant, variants: list[Variant], corpus: Corpus, calm: Ladder, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"out": tmp_path / "run", "resamples": 20}
    assert calm.folder is not None
    shutil.copytree(calm.folder, tmp_path / "run")
    assert not calm.summary.pairs
    more = ladder(base, variants[:2], corpus, OPTIONS, **how)
    assert [one.name for one in more.summary.variants] == ["near", "far"]
    assert more.summary.rows[0] == calm.summary.rows[0]
    fewer = ladder(base, variants[1:2], corpus, OPTIONS, **how)
    assert [one.name for one in fewer.summary.variants] == ["far"]


def test_several_texts_are_averaged_with_equal_weight(
    base: Variant, variants: list[Variant], tokenizer: Any, tmp_path: Path
) -> None:
    texts = {
        "one": Corpus.from_texts(TEXTS[:3], tokenizer),
        "two": Corpus.from_texts(TEXTS[1:], tokenizer),
    }
    done = ladder(base, variants[:2], texts, OPTIONS, out=tmp_path, resamples=50)
    summary = done.summary
    assert [(row.name, row.text) for row in summary.rows] == [
        (name, text) for name in ("near", "far") for text in ("one", "two")
    ]
    for average in summary.averages:
        rows = [row for row in summary.rows if row.name == average.name]
        for name in ("kl_mean", "same_top", "accuracy_difference", "nll_difference_nats"):
            want = np.mean([getattr(row, name).value for row in rows])
            assert getattr(average, name).value == pytest.approx(want, abs=1e-7), name
        assert average.n == sum(row.n for row in rows)
    assert [pair.text for pair in summary.pairs] == ["one", "two", None]
    whole = summary.pairs[-1]
    mean = np.mean([pair.kl_nats.value for pair in summary.pairs[:2]])
    assert whole.kl_nats.value == pytest.approx(mean)
    assert done.comparison("far", "two").summary.n_positions == summary.texts[1].positions


def test_a_variant_that_cannot_be_measured_is_named_and_the_others_finished(
    base: Variant,
    variants: list[Variant],
    models: dict[str, Path],
    corpus: Corpus,
    tmp_path: Path,
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in models["near"].iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[:-100])
    given = [Variant.of(str(broken)), variants[1]]
    how: dict[str, Any] = {"out": tmp_path / "run", "resamples": 20}
    done = ladder(base, given, corpus, OPTIONS, **how)
    assert [one.name for one in done.summary.variants] == ["far"]
    [refused] = done.summary.refused
    assert refused.name == "broken"
    assert "damaged or incomplete" in refused.reason
    assert "broken could not be measured" in str(done)
    said = json.loads((tmp_path / "run" / "summary.json").read_text())["refused"]
    assert said[0]["name"] == "broken"
    (broken / "model.safetensors").write_bytes(weights)
    assert not ladder(base, given, corpus, OPTIONS, **how).summary.refused
    (broken / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(UnembedError, match=r"no variant could be measured: broken: .*damaged"):
        ladder(base, given[:1], corpus, OPTIONS, out=tmp_path / "other", resamples=20)


def test_what_is_wrong_is_said_before_a_model_is_loaded(
    base: Variant,
    variants: list[Variant],
    models: dict[str, Path],
    llama: Any,
    corpus: Corpus,
    small_tokenizer: Any,
    checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    def opened(*_args: Any, **_loading: Any) -> Checkpoint:
        pytest.fail("a model was loaded")

    first = replace(base, opened=opened)
    near, place = replace(variants[0], opened=opened), models["near"]

    def refused(*given: Variant, options: AuditOptions = OPTIONS) -> str:
        with pytest.raises(UnembedError) as said:
            ladder(first, given, corpus, options, out=tmp_path / "run")
        return str(said.value)

    assert f"{place} is given twice" in refused(near, near)
    assert f"{place} is given twice" in refused(near, replace(near, name="other"))
    assert "is the base itself" in refused(replace(first, name="same"))
    clash = refused(near, Variant.of(f"NEAR={models['far']}"))
    assert f"would be called NEAR, as {place} would be: name it, as NAME={models['far']}" in clash
    assert "called Base, a name that the run needs" in refused(replace(near, name="Base"))
    long = replace(OPTIONS, context=4096)
    assert "--context 4096 is more than the" in refused(near, options=long)
    others = checkpoint(llama, small_tokenizer)
    assert "the tokenizers of" in refused(near, Variant.of(f"other={others}"))
    config = copy.deepcopy(llama.config)
    config.vocab_size = 460
    with torch.random.fork_rng(devices=[]):
        small = checkpoint(type(llama)(config))
    assert "has 460 rows in its head" in refused(Variant.of(f"small={small}"))
    assert not (tmp_path / "run").exists()


def test_states_that_do_not_fit_are_refused_before_the_pass(
    base: Variant,
    variants: list[Variant],
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = namedtuple("usage", ("total", "used", "free"))
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _place: usage(1 << 40, 0, 100_000))
    with pytest.raises(UnembedError, match=r"hidden states of .* positions take at least .* room"):
        ladder(base, variants, corpus, OPTIONS, out=tmp_path / "run")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_names_are_those_of_files_or_are_given(tmp_path: Path) -> None:
    assert Variant.of("models/a-Q4_0.gguf").name == "a-Q4_0"
    assert Variant.of("org/model").name == "model"
    assert (Variant.of("awq=x/final").name, Variant.of("awq=x/final").model) == ("awq", "x/final")
    odd = tmp_path / "a=b"
    odd.mkdir()
    assert Variant.of(str(odd)).model == str(odd)
    with pytest.raises(UnembedError, match="cannot be a folder's name: name the variant"):
        Variant("a/b", "c")


def test_damaged_states_are_told(tmp_path: Path) -> None:
    (tmp_path / "part-00000.safetensors").write_bytes(b"nothing")
    states = KeptStates(tmp_path)
    with pytest.raises(UnembedError, match="delete that folder, and repeat the same command"):
        states._opened  # noqa: B018


def test_a_gguf_file_is_given_the_tokens_of_the_base(
    llama: Any, tokenizer: Any, checkpoint: Callable[..., Path], corpus: Corpus, tmp_path: Path
) -> None:
    """Its own tokenizer splits a text as the file's word says, which few files say right."""
    gguf = pytest.importorskip("gguf")
    file, _stored = write_gguf(gguf, tokenizer, tmp_path / "model")
    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.normalizer = Lowercase()
    base = Variant("base", str(checkpoint(llama, other)))
    lower = Corpus.from_texts(SOME, other)
    done = ladder(base, [Variant.of(str(file))], lower, OPTIONS, out=tmp_path / "run", resamples=20)
    [row] = done.summary.rows
    assert row.n == done.audit().provenance.text.positions
    [variant] = done.summary.variants
    assert variant.bytes.known == "stored"
    assert variant.base_tokens
