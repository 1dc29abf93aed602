"""A run of layers: against plain code, against the audit, killed and resumed, refused."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

import reference.sweep
import unembed.decisions.layers.layers as module
from killing import killed_at
from made_up.corpora import TEXTS
from made_up.models import small_model
from places import SHARED
from unembed import Corpus, audit, layers, load
from unembed.decisions import AuditOptions, Layers, LayersOptions
from unembed.decisions.cloud.reservoir import Reservoir
from unembed.decisions.layers.columns import (
    CANDIDATES,
    OF_AUDIT,
    OF_DEPTH,
    bytes_a_position,
    depth_columns,
)
from unembed.decisions.layers.fitted import LENS_FILE, FittedLens, NormalEquations
from unembed.decisions.layers.names import depths_of, lenses_of
from unembed.decisions.layers.run import LayersRun
from unembed.errors import NonFiniteError, UnembedError
from unembed.head.beside_final import sweep_beside_final
from unembed.head.head import Head
from unembed.head.precision import Precision
from unembed.models.model_pass import ModelPass
from unembed.runs import files
from unembed.runs.arrays import numbers_of
from unembed.runs.manifest import read_run, write_manifest
from unembed.runs.store import RunFolder
from unembed.text.rows import PromptCompletion

OPTIONS = LayersOptions(top_k=3, context=24, batch_tokens=256, part_positions=300, cloud_points=0)
AUDIT = AuditOptions(
    **{
        name: getattr(OPTIONS, name)
        for name in AuditOptions.__dataclass_fields__
        if hasattr(OPTIONS, name)
    }
)
SOME = [f"{text} {word}." for text in TEXTS for word in ("again", "and more of it", "no")]


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LAYERS_RESAMPLES", 40)
        yield


@pytest.fixture(scope="module")
def corpus(tokenizer: Any) -> Corpus:
    return Corpus.from_texts(SOME, tokenizer)


@pytest.fixture(scope="module")
def found(llama: Any, corpus: Corpus) -> Layers:
    return layers(llama, corpus, OPTIONS)


def column(run: Layers, lens: Any, depth: int, name: str) -> np.ndarray:
    return numbers_of(run.table(lens, depth, [name])[name])


def everything(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}


def test_the_last_depth_is_the_audit_to_the_bit(llama: Any, corpus: Corpus, found: Layers) -> None:
    whole = audit(llama, corpus, AUDIT).table
    names = ["doc", "pos", *OF_AUDIT, *CANDIDATES]
    assert found.table("normed", 2, names).equals(whole.select(names))
    assert set(column(found, "normed", 2, "kl_final").tolist()) == {0.0}
    assert set(column(found, "normed", 2, "acceptance").tolist()) == {1.0}
    assert set(column(found, "normed", 2, "final_rank").tolist()) == {1}


def plain_states(model: Any, corpus: Corpus, run: Layers) -> list[torch.Tensor]:
    """States at every depth of every position, and the head's input, by transformers alone."""
    caught: list[torch.Tensor] = []
    handle = model.model.norm.register_forward_pre_hook(lambda _m, args: caught.append(args[0]))
    stacks: list[list[torch.Tensor]] = []
    for row in range(corpus.rows):
        ids = torch.tensor(corpus.ids[corpus.starts[row] : corpus.starts[row + 1]]).long()
        for start in range(0, len(ids) - 1, OPTIONS.context):
            window = ids[start : start + OPTIONS.context + 1][None, :-1]
            with torch.no_grad():
                states = model.model(input_ids=window, output_hidden_states=True).hidden_states
            stacks.append([*(one[0] for one in states[:-1]), caught.pop()[0], states[-1][0]])
    handle.remove()
    return [torch.cat(rows).double() for rows in zip(*stacks, strict=True)]


def test_every_lens_is_that_of_plain_code(llama: Any, corpus: Corpus, found: Layers) -> None:
    """States, norm and head of transformers, probabilities of whole float64 logits."""
    *states, last = plain_states(llama, corpus, found)
    weight = llama.lm_head.weight.double().detach()
    known = len(corpus.tokenizer)
    assert found.fitted is not None
    fair = ~np.isin(column(found, "normed", 2, "doc"), found.fitted.documents)
    p = (last @ weight.T)[:, :known].log_softmax(1)
    for depth, state in enumerate(states):
        normed = llama.model.norm(state.float()).double().detach()
        fitted = found.fitted.maps[depth]
        mapped = state @ fitted.matrix.double().T + fitted.offset.double()
        for lens, seen, kept in (
            ("normed", normed, slice(None)),
            ("raw", state, slice(None)),
            ("fitted", mapped, torch.from_numpy(fair)),
        ):
            logits = (seen @ weight.T)[kept][:, :known]
            q, own = logits.log_softmax(1), p[kept]
            target = torch.from_numpy(column(found, lens, depth, "target")).long()
            want = reference.sweep.decisions(logits, target, 3)
            got = found.table(lens, depth)
            assert got["topk_ids"].to_pylist() == want["topk_ids"]
            assert got["rank"].to_pylist() == want["rank"]
            final = own.argmax(1, keepdim=True)
            assert got["final_rank"].to_pylist() == (1 + (q > q.gather(1, final)).sum(1)).tolist()
            want |= {
                "kl_final": (own.exp() * (own - q)).sum(1).tolist(),
                "acceptance": torch.minimum(own, q).exp().sum(1).tolist(),
            }
            for name in ("margin", "nll", "entropy", "kl_final", "acceptance"):
                assert got[name].to_pylist() == pytest.approx(want[name], abs=3e-4), (lens, depth)


def test_the_same_positions_are_at_every_depth_and_the_fitted_half_is_left_out(
    found: Layers,
) -> None:
    assert found.lenses == ("normed", "raw", "fitted")
    assert found.fitted is not None
    whole = found.table("normed", 0, ["doc", "pos", "target"])
    fair = pc.invert(pc.is_in(whole["doc"], pa.array(found.fitted.documents, pa.int32())))
    for lens, depth in found.places:
        want = whole.filter(fair) if lens == "fitted" else whole
        assert found.table(lens, depth, ["doc", "pos", "target"]).equals(want)
    assert len(found.fitted.documents) == len(SOME) // 2
    assert found.fitted.positions == whole.num_rows - fair.to_numpy().sum()


def test_a_stack_is_its_tables(found: Layers) -> None:
    for lens in found.lenses:
        stack = found.stack(lens)
        for i, depth in enumerate(found.depths):
            for name in ("top1", "kl_final", *OF_DEPTH, "relative_distance"):
                assert getattr(stack, name)[i].tolist() == column(found, lens, depth, name).tolist()
        final = found.table("normed", 2).to_pylist()
        by_place = {(row["doc"], row["pos"]): row for row in final}
        for at, key in enumerate(zip(stack.doc.tolist(), stack.pos.tolist(), strict=True)):
            own = by_place[key]
            assert (stack.final_top1[at], stack.target[at]) == (own["top1"], own["target"])
            assert (stack.final_nll[at], stack.final_margin[at]) == (own["nll"], own["margin"])


def test_a_fitted_lens_is_least_squares_with_the_penalty_below() -> None:
    """A part at a time, far from the origin."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 7, generator=generator, dtype=torch.float64) + 50
    y = x @ torch.randn(7, 4, generator=generator, dtype=torch.float64) + 3
    y += torch.randn(90, 4, generator=generator, dtype=torch.float64)
    sums = NormalEquations({1: 7}, 4)
    for rows in (slice(40), slice(40, 41), slice(41, None)):
        sums.add({1: x[rows]}, y[rows])
    for ridge in (0.1, 30.0):
        made, explained = sums.solve(1, ridge)
        centred, aim = (one.numpy() - one.numpy().mean(0) for one in (x, y))
        size = np.sqrt(ridge * (centred**2).mean(0).sum())
        above = np.vstack([centred, size * np.eye(7)])
        want = np.linalg.lstsq(above, np.vstack([aim, np.zeros((7, 4))]), rcond=None)[0]
        assert made.matrix.T.numpy() == pytest.approx(want, abs=1e-6)
        offset = y.numpy().mean(0) - x.numpy().mean(0) @ want
        assert made.offset.numpy() == pytest.approx(offset, abs=1e-4)
        left = ((aim - centred @ want) ** 2).sum() / (aim**2).sum()
        assert explained == pytest.approx(1 - left, abs=1e-9)


@pytest.fixture
def threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_restored")
def test_a_run_is_bitwise_the_same_on_any_number_of_threads(
    llama: Any, corpus: Corpus, found: Layers
) -> None:
    assert found.fitted is not None
    for threads in (1, 3):
        torch.set_num_threads(threads)
        again = layers(llama, corpus, OPTIONS)
        assert torch.get_num_threads() == threads
        assert again.provenance == found.provenance
        assert again.fitted is not None
        assert again.fitted.digest == found.fitted.digest
        assert all(again.table(*place).equals(found.table(*place)) for place in found.places)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_bitwise_the_same_in_any_batch(
    llama: Any, found: Layers, dtype: torch.dtype
) -> None:
    """Of the fitted map too, and where the final decision was swept with other rows."""
    head = Head.of(llama)
    head = Head.from_parts(head.weight.to(dtype), head.bias, head.scale, 30.0, head.valid)
    generator = torch.Generator().manual_seed(0)
    final, states = (torch.randn(70, 48, generator=generator).to(dtype) * 3 for _ in range(2))
    targets = torch.arange(70) % head.vocab
    precision = Precision.probe(head.weight)
    assert found.fitted is not None
    fitted = found.fitted.maps[1]

    def measured(rows: slice) -> dict[str, np.ndarray]:
        def seen(some: slice) -> torch.Tensor:
            return fitted(states[rows][some], precision.float32_route).to(dtype)

        _, [beside] = sweep_beside_final(
            final[rows], [seen], head, targets[rows], k=4, precision=precision
        )
        return depth_columns(seen(slice(None)), beside, head, targets[rows], 4, precision)

    whole = measured(slice(70))
    for size in (1, 7, 64):
        pieces = [measured(slice(at, at + size)) for at in range(0, 70, size)]
        for name, column in whole.items():
            joined = np.concatenate([piece[name] for piece in pieces])
            assert joined.tobytes() == column.tobytes(), (size, name)


def test_states_that_never_change_are_mapped_to_the_mean() -> None:
    sums = NormalEquations({0: 3}, 2)
    sums.add({0: torch.full((5, 3), 0.1)}, torch.arange(10.0).view(5, 2))
    made, explained = sums.solve(0)
    assert made.matrix.abs().max() == 0
    assert made.offset.tolist() == [4, 5]
    assert explained == 0


def test_a_run_in_a_folder_is_that_in_memory(
    llama: Any, corpus: Corpus, found: Layers, tmp_path: Path
) -> None:
    kept = layers(llama, corpus, OPTIONS, out=tmp_path / "run", command="again")
    opened = Layers.load(tmp_path / "run")
    assert len(list((tmp_path / "run" / "tokens").rglob("*.parquet"))) > 2 * len(found.places)
    for run in (kept, opened):
        for place in found.places:
            assert run.table(*place).equals(found.table(*place))
        assert run.summary == found.summary
        assert run.provenance == found.provenance
        assert run.fitted is not None
        assert run.fitted.digest == found.fitted.digest  # type: ignore[union-attr]
    partitioned = ds.dataset(tmp_path / "run" / "tokens", partitioning="hive").to_table()
    assert set(partitioned["depth"].unique().to_pylist()) == {0, 1, 2}
    assert partitioned.num_rows == sum(found.table(*place).num_rows for place in found.places)


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bytes(
    llama: Any, corpus: Corpus, lens_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time it goes on from what the one before left."""
    short = replace(OPTIONS, depths=(1,))
    for owner, method, number in (
        (ModelPass, "streams", 2),  # while the lens is fitted
        (RunFolder, "write_bytes", 1),  # before it is written
        (RunFolder, "write_table", 1),
        (RunFolder, "write_table", 8),  # within the second part
        (RunFolder, "finish", 1),
    ):
        with killed_at(monkeypatch, owner, method, number):
            layers(llama, corpus, short, out=tmp_path / "killed")
    layers(llama, corpus, short, out=tmp_path / "killed")
    assert everything(tmp_path / "killed") == everything(lens_file.parent)


@pytest.fixture(scope="module")
def lens_file(llama: Any, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("layers") / "run"
    layers(llama, corpus, replace(OPTIONS, depths=(1,)), out=out)
    return out / LENS_FILE


def test_a_lens_given_on_its_own_text_measures_the_same(
    llama: Any, corpus: Corpus, found: Layers, lens_file: Path
) -> None:
    options = replace(OPTIONS, depths=(1,), fitted_lens=lens_file)
    again = layers(llama, corpus, options)
    assert again.table("fitted", 1).equals(found.table("fitted", 1))
    assert again.summary.fit is not None
    assert again.summary.fit.given
    elsewhere = Corpus.from_texts([f"{text} elsewhere" for text in SOME], corpus.tokenizer)
    other = layers(llama, elsewhere, options)
    assert other.table("fitted", 1).num_rows == len(other)


def test_a_lens_that_is_not_the_models_is_refused(
    llama: Any, corpus: Corpus, lens_file: Path, tmp_path: Path
) -> None:
    given, other = replace(OPTIONS, fitted_lens=lens_file), copy.deepcopy(llama)
    with torch.no_grad():
        other.model.norm.weight += 1
    with pytest.raises(UnembedError, match=r"was fitted to LlamaForCausalLM .* is another model"):
        layers(other, corpus, replace(given, depths=(1,)))
    with pytest.raises(UnembedError, match="has no depth 0, only 1, 2: give --depths among those"):
        layers(llama, corpus, given)
    data = bytearray(lens_file.read_bytes())
    data[-9] ^= 1
    for bad, said in ((bytes(data), "is damaged"), (data[:300], "is damaged"), (b"", "is damaged")):
        (tmp_path / "bad.safetensors").write_bytes(bad)
        with pytest.raises(UnembedError, match=said) as caught:
            layers(llama, corpus, replace(OPTIONS, fitted_lens=tmp_path / "bad.safetensors"))
        assert "\n" not in str(caught.value)
    with pytest.raises(UnembedError, match="does not exist"):
        layers(llama, corpus, replace(OPTIONS, fitted_lens=tmp_path / "none"))
    with pytest.raises(UnembedError, match=r"is no file: give the fitted-lens\.safetensors"):
        layers(llama, corpus, replace(OPTIONS, fitted_lens=tmp_path))
    (tmp_path / "link").symlink_to(lens_file)
    assert FittedLens.read(tmp_path / "link").digest == FittedLens.read(lens_file).digest


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"depths": (0, 3)}, "depth 3 is not there"),
        ({"top_k": 1}, "--top-k 1 is too few"),
        ({"top_k": 479}, "--top-k 479 is more than the 477 tokens"),
        ({"lenses": ("raw",), "fitted_lens": Path("x")}, "--fitted-lens x is not used by --lens"),
        ({"max_positions": 40}, "numbers for each of its outputs"),
    ],
)
def test_what_cannot_be_used_is_refused(
    wrong: dict[str, Any], said: str, llama: Any, corpus: Corpus, tmp_path: Path
) -> None:
    with pytest.raises(UnembedError, match=said) as caught:
        layers(llama, corpus, replace(OPTIONS, **wrong), out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "run").glob("tokens"))


@pytest.mark.parametrize(
    ("asked", "depths"), [("all", None), ("0", (0,)), (" 3 , 0-1,1", (0, 1, 3))]
)
def test_depths_are_read_off_a_list(asked: str, depths: tuple[int, ...] | None) -> None:
    assert depths_of(asked) == depths


@pytest.mark.parametrize("asked", ["", "a", "1,", "4-2", "-1", "1.5", "9999999", "1--2"])
def test_what_is_no_list_of_depths_is_refused(asked: str) -> None:
    with pytest.raises(UnembedError, match="is no list of depths: give numbers and ranges"):
        depths_of(asked)


def test_another_lens_is_refused() -> None:
    with pytest.raises(UnembedError, match="--lens 'tuned' is none of normed, raw, fitted"):
        lenses_of(["raw", "tuned"])


def test_too_few_documents_are_refused_with_what_to_do(llama: Any, tokenizer: Any) -> None:
    few = Corpus.from_texts(SOME[:3], tokenizer)
    with pytest.raises(UnembedError, match=r"the text has 3: give 4 or more .* --lens normed,raw"):
        layers(llama, few, OPTIONS)
    assert layers(llama, few, replace(OPTIONS, lenses=("raw",))).lenses == ("normed", "raw")


def test_an_encoder_is_refused(corpus: Corpus) -> None:
    from transformers import BertConfig, BertModel

    with pytest.raises(UnembedError):
        layers(
            BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)),
            corpus,
        )


def test_a_lens_that_widths_do_not_allow_is_named(small_tokenizer: Any) -> None:
    small = Corpus.from_texts(SOME, small_tokenizer)
    done = layers(small_model("opt"), small, OPTIONS)
    assert done.lenses == ("normed", "fitted")
    assert done.summary.lens("raw").reason == "states are 32 wide, and the head reads 16"
    with pytest.raises(UnembedError, match=r"lens was not measured .states are 32 wide"):
        done.table("raw", 0)
    with pytest.raises(UnembedError, match="depth 9 was not measured: take one of 0, 1, 2"):
        done.table("normed", 9)


def broken(llama: Any, token: int) -> Any:
    """A model whose second block gives infinities where it reads a token."""
    model = copy.deepcopy(llama)
    weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.lm_head.weight = weight
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = torch.inf
    return model


def test_positions_that_are_not_finite_are_left_out_of_every_depth(
    llama: Any, corpus: Corpus, tmp_path: Path
) -> None:
    token = int(corpus.ids[corpus.starts[1] + 3])
    model = broken(llama, token)
    options = replace(OPTIONS, lenses=("raw",))
    with pytest.raises(
        NonFiniteError, match=r"not finite at depth \d under the \w+ lens"
    ) as caught:
        layers(model, corpus, options)
    assert "--max-nonfinite 0 allows no more" in str(caught.value)
    done = layers(model, corpus, replace(options, max_nonfinite=10**6), out=tmp_path / "run")
    left_out = [done.table(*place)["top1"].is_null().to_pylist() for place in done.places]
    assert 0 < sum(left_out[0]) < len(done)
    assert all(one == left_out[0] for one in left_out)
    assert done.summary.n_left_out == sum(left_out[0])
    assert done.stack("raw").n == len(done) - sum(left_out[0])
    with pytest.raises(UnembedError, match="states at depth 0 that are not finite"):
        layers(model, corpus, replace(OPTIONS, max_nonfinite=10**6))


def test_a_passage_has_what_every_depth_would_have_said(found: Layers) -> None:
    name = found.documents["name"][8].as_py()
    some = found.passage(name, 2, 5)
    assert (some.document, some.depths, some.positions) == (name, (0, 1, 2), (2, 3, 4, 5, 6))
    table = found.table("normed", 1)
    rows = table.filter(pc.equal(table["doc"], 8)).slice(2, 5).to_pylist()
    for cell, row in zip(some.cells[1], rows, strict=True):
        assert cell.text == found.vocabulary[row["top1"]]
        assert cell.margin == row["margin"]
        assert [text for text, _ in cell.candidates] == [
            found.vocabulary[t] for t in row["topk_ids"]
        ]
        assert sum(chance for _, chance in cell.candidates) <= 1 + 1e-6
        assert cell.right == (row["top1"] == row["target"])
    assert all(cell.final for cell in some.cells[2])
    assert some.tokens[0] == found.vocabulary[rows[0]["target"]]
    with pytest.raises(UnembedError, match="no position from 999 on"):
        found.passage(8, 999)
    with pytest.raises(UnembedError, match="there is no document 'other'"):
        found.passage("other")


def test_a_run_prints_its_depths_and_what_it_rests_on(found: Layers) -> None:
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["0", "1", "2"]
    assert max(map(len, lines[:4])) <= 100
    assert "12 documents" in str(found)
    assert "3 of 3 depths" in repr(found)


def test_frames_have_a_row_a_position_and_depth(found: Layers) -> None:
    pytest.importorskip("pandas")
    frame = found.to_pandas(lens="raw", text=True)
    assert len(frame) == 3 * len(found)
    assert {"depth", "context", "top1_text", "kl_final"} <= set(frame.columns)
    assert set(found.to_pandas()["depth"]) == {0, 1, 2}


def test_room_is_asked_for_before_the_work(
    llama: Any, corpus: Corpus, found: Layers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = sum(found.table(*place).nbytes for place in found.places)
    rows = sum(found.table(*place).num_rows for place in found.places)
    assert rows * bytes_a_position(3) == pytest.approx(wide, rel=0.1)
    usage = namedtuple("usage", ("total", "used", "free"))
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _place: usage(1 << 40, 0, 1000))
    monkeypatch.setattr(LayersRun, "fit", lambda *_given: pytest.fail("the pass was begun"))
    with pytest.raises(UnembedError, match="positions at 3 depths and the fitted lens take"):
        layers(llama, corpus, OPTIONS, out=tmp_path / "run")


CLOUD = replace(OPTIONS, lenses=("normed",), depths=(1,), cloud_points=60)


@pytest.fixture(scope="module")
def clouded(llama: Any, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("clouded") / "run"
    layers(llama, corpus, CLOUD, out=out)
    return out


def test_the_cloud_is_of_the_states_at_each_depth(
    llama: Any, corpus: Corpus, clouded: Path
) -> None:
    found = Layers.load(clouded).summary.cloud
    assert found is not None
    assert [row.depth for row in found.rows] == [1, 2, -1]
    assert found.points == 60
    few = Corpus.from_texts(SOME[:9], corpus.tokenizer)
    done = layers(llama, few, replace(CLOUD, cloud_points=10**6))
    *states, last = plain_states(llama, few, done)
    every = done.summary.cloud
    assert every is not None
    for row, own in zip(every.rows, (states[1], states[2], last), strict=True):
        norms = own.norm(dim=1).mean()
        assert row.spectrum.mean_norm.value == pytest.approx(float(norms), rel=1e-4)
        assert row.spectrum.n == len(done)
        assert row.shuffled is not None
    ends = layers(llama, few, replace(CLOUD, cloud_last=True)).summary.cloud
    assert ends is not None
    assert (ends.points, ends.documents) == (9, 9)


def test_states_are_gone_once_the_run_is_finished(clouded: Path) -> None:
    assert not list(clouded.glob("*states*"))


def test_a_run_with_a_cloud_that_is_killed_again_and_again_ends_in_the_same_bytes(
    llama: Any, corpus: Corpus, clouded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time it goes on from what the one before left."""
    assert len({path.name for path in clouded.glob("tokens/**/*.parquet")}) == 3
    for owner, method, number in (
        (Reservoir, "write", 2),  # of the text
        (RunFolder, "write_table", 3),  # states of the third part are there, a table is not
        (Reservoir, "write", 3),  # the second of the shuffled text, after the third of the text
        (Reservoir, "read", 2),
        (Reservoir, "remove", 1),  # finished
    ):
        with killed_at(monkeypatch, owner, method, number):
            layers(llama, corpus, CLOUD, out=tmp_path / "run")
    layers(llama, corpus, CLOUD, out=tmp_path / "run")
    assert everything(tmp_path / "run") == everything(clouded)


@pytest.fixture
def rewritten(lens_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """A run whose manifest lists a file that was changed."""

    def change(path: str, data: bytes) -> Path:
        out = tmp_path / "run"
        shutil.copytree(lens_file.parent, out)
        run = read_run(out)
        (out / path).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        parts, files = (
            tuple(replace(one, sha256=digest) if one.path == path else one for one in some)
            for some in (run.parts, run.files)
        )
        write_manifest(replace(run, folder=out, parts=parts, files=files))
        return out

    return change


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("kl_final", -1.0, "a kl_final of .* is -1"),
        ("acceptance", 1.5, "a acceptance of .* is 1.5"),
        ("final_rank", 0, "a final_rank of .* is 0"),
        ("top1", 480, "a top1 of .* is 480"),
        ("pos", 999, "depth 1 under the normed lens lacks positions"),
        ("cosine_penalty", None, "has no column cosine_penalty"),
    ],
)
def test_tables_that_no_run_writes_are_refused(
    name: str, value: float | None, said: str, rewritten: Callable[..., Path], lens_file: Path
) -> None:
    path = "tokens/lens=normed/depth=002/part-00000.parquet"
    table = pq.ParquetFile(lens_file.parent / path).read()
    at = table.column_names.index(name)
    if value is None:
        table = table.remove_column(at)
    else:
        kind = table.schema.field(at).type
        changed = pa.array([value, *table[name].to_pylist()[1:]], kind)
        table = table.set_column(at, name, changed)
    if name == "pos":
        said = said.replace("depth 1", "depth 2")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    out = rewritten(path, sink.getvalue().to_pybytes())
    with pytest.raises(UnembedError, match=said):
        Layers.load(out)


def test_another_lens_in_a_runs_folder_is_refused(
    llama: Any, corpus: Corpus, rewritten: Callable[..., Path]
) -> None:
    other = layers(llama, corpus, replace(OPTIONS, depths=(1,), seed=5)).fitted
    assert other is not None
    out = rewritten(LENS_FILE, other.to_bytes())
    with pytest.raises(UnembedError, match="its fitted lens is not the one that its summary names"):
        Layers.load(out)


def test_states_that_are_the_same_everywhere_are_said_to_be(
    llama: Any, corpus: Corpus, tmp_path: Path
) -> None:
    """A model that reads every token alike, so that nothing varies at any depth."""
    model = copy.deepcopy(llama)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.model.embed_tokens.weight[:] = model.model.embed_tokens.weight[0].clone()
    options = replace(OPTIONS, cloud_points=60, depths=(0,))
    done = layers(model, corpus, options, out=tmp_path / "run")
    summary = done.summary
    assert summary.cloud is not None
    entering = summary.cloud.at(0).geometry
    assert entering.copies == 59
    assert entering.dimensions.two_nn.reason
    first = summary.lens("normed").rows[0]
    assert first.margin_quantiles["5"].value == first.margin_quantiles["95"].value
    assert first.correlations[0].with_final.reason
    assert summary.fit is not None
    assert summary.fit.explained["0"] == 0
    assert str(done)


def test_completions_alone_are_measured(llama: Any, tokenizer: Any) -> None:
    pairs = [PromptCompletion(f"{text[:20]} {i}", text[20:60]) for i, text in enumerate(SOME)]
    some = Corpus.from_pairs(pairs, tokenizer)
    whole = audit(llama, some, AuditOptions(top_k=3, context=24)).table
    options = replace(OPTIONS, depths=(1,), lenses=("raw",), cloud_points=20)
    done = layers(llama, some, options)
    names = ["doc", "pos", "target", "top1", "margin", "nll"]
    assert done.table("normed", 2, names).equals(whole.select(names))
    assert done.summary.cloud is not None


def test_a_bfloat16_model_has_the_audits_last_depth(llama: Any, corpus: Corpus) -> None:
    model = copy.deepcopy(llama).to(torch.bfloat16)
    done = layers(model, corpus, OPTIONS)
    whole = audit(model, corpus, AUDIT).table
    names = ["doc", "pos", *OF_AUDIT, *CANDIDATES]
    assert done.table("normed", 2, names).equals(whole.select(names))
    kl = [row.kl_nats.value for row in done.summary.lens("fitted").rows]
    assert all(one is not None for one in kl)


def test_figures_are_named_by_lens_and_depth(llama: Any, corpus: Corpus) -> None:
    some = layers(llama, corpus, replace(OPTIONS, depths=(1,))).summary.to_arrow()
    names = some["name"].to_pylist()
    assert "lenses.fitted.rows.2.kl_nats" in names
    assert "lenses.normed.rows.1.correlations.margin.with_final" in names
    assert len(names) == len(set(names))


def test_a_second_real_model_forms_its_decisions_late(tmp_path: Path) -> None:
    folder, text = SHARED / "models" / "stories260K", SHARED / "models" / "stories.txt"
    if not folder.exists() or not text.exists():
        pytest.skip("there is no second model")
    checkpoint = load(folder)
    corpus = Corpus.read(text, checkpoint.tokenizer)
    options = LayersOptions(max_positions=1_000, cloud_points=0)
    summary = layers(checkpoint.model, corpus, options).summary
    agreement = [row.agreement.value or 0.0 for row in summary.lens("normed").rows]
    assert agreement == sorted(agreement)
    assert agreement[-1] == 1
    by_lens = {one.lens: one.rows[-2].kl_nats.value or 0.0 for one in summary.lenses}
    assert by_lens["fitted"] < by_lens["normed"] < by_lens["raw"]
    assert summary.settling.earlier.low is not None
    assert summary.settling.earlier.low > 0
