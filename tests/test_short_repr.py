"""Every public object prints in a line, and is a table in a notebook."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unembed
from made_up import alignments, doses, network_signatures, selection, signatures
from made_up.comparisons import make_comparison
from made_up.ladders import make_ladder
from made_up.layers import make_layers, make_layers_comparison
from made_up.logs import compared_benchmarks
from made_up.refinements import make_summary
from markup import Elements
from unembed.decisions import AuditOptions, LayersOptions, PositionFilter, RoundingFlips
from unembed.decisions.ladder.variants import Variant
from unembed.demo import HeadTraining, documents
from unembed.errors import UnembedError
from unembed.head import Precision, ProcessGroupPeers, RowShare
from unembed.models import (
    Depths,
    HeadReader,
    ModelPass,
    ReadingOptions,
    StatesOptions,
    StoredStates,
    Streams,
    check,
    cost,
    rotate,
    states,
)
from unembed.runs import Phases, read_run
from unembed.selection import JudgedTransfer, compared
from unembed.short_repr import ShortRepr
from unembed.signatures import NetworkOptions, Sketcher, Verbalizers, samples_of
from unembed.signatures.batch_sums import batch_sums
from unembed.signatures.state import Features, empty
from unembed.stats.estimate import Estimate
from unembed.stats.forms import full, share
from unembed.text import PromptCompletion, Vocabulary
from unembed.text.batches import BatchPlan, batches, parts
from unembed.training import (
    Benchmarks,
    Budget,
    Examples,
    HeadHook,
    Lora,
    Objective,
    PenaltyTerm,
    Positions,
    Protection,
    RefineMixin,
    Schedule,
    Weighting,
)
from unembed.training.doses.table import dose_table

LONGEST = 400
PACKAGES = ("", ".decisions", ".training", ".signatures", ".selection", ".runs", ".demo", ".head",
            ".models", ".text")  # fmt: skip
NO_RECORDS = {HeadReader, RefineMixin, UnembedError}
"""A protocol, a mixin for a Trainer, and an error, which is its message."""


@pytest.fixture(scope="module")
def things(
    llama: Any, tokenizer: Any, topics: list[str], tmp_path_factory: pytest.TempPathFactory
) -> list[Any]:
    """Real small objects of every public class, and what the verbs give."""
    folder = tmp_path_factory.mktemp("things")
    checkpoint = unembed.Checkpoint("a small model", llama, tokenizer)
    corpus = unembed.Corpus.from_texts(topics, tokenizer)
    options = AuditOptions(batch_tokens=256)
    audit = unembed.audit(llama, corpus, options, name="a small model", out=folder / "audit")
    comparison = unembed.compare(audit, audit, resamples=50)
    reading = ModelPass.of(llama, corpus, ReadingOptions(max_positions=64), "a small model")
    head, windows = reading.head, reading.windows
    hidden = torch.randn(4, head.dim)
    sketches = unembed.SketchOptions(m=64)
    grid = doses.Grid(n=150)
    llama.config.save_pretrained(folder / "config")
    table = dose_table(grid.start, grid.points(seeds=(0,), objectives=("fisher",)), resamples=20)
    transfer, verdicts = selection.transfer(4), selection.verdicts()
    objective = Objective("fisher")
    return [
        Estimate(1.3, 1.2, 1.4, n=30),
        # Models and texts
        checkpoint,
        corpus,
        head,
        unembed.head_loss(hidden, head, torch.arange(4), k=2),
        Precision.probe(head.weight),
        RowShare.of(4, ProcessGroupPeers.of()),
        ReadingOptions(),
        reading,
        batch := next(batches(windows, next(iter(parts(windows, 64))), BatchPlan(256))),
        batch.blocks[0],
        BatchPlan(256),
        Vocabulary.of(tokenizer, range(400)),
        PromptCompletion("a prompt " * 99, "a completion"),
        next(documents("heldout")),
        HeadTraining(),
        check(checkpoint),
        cost(str(folder / "config"), "1e6", device="h100"),
        depths := Depths.of(llama),
        Streams.of(llama, batch, depths, (0, depths.blocks)),
        rotate(checkpoint, steps=1),
        RoundingFlips("int8", *[Estimate(0.01, 0.009, 0.011, 5000)] * 6),
        states(llama, corpus, folder / "states", StatesOptions(max_positions=64)),
        StoredStates.read(folder / "states", checkpoint),
        StatesOptions(before_norm=True),
        # Looked at and compared
        audit,
        audit.summary,
        options,
        audit.summary.gap,
        read_run(folder / "audit"),
        audit.provenance,
        Phases({"head": 1.0}),
        comparison,
        compared_benchmarks(60),
        ladder := make_ladder(2),
        ladder.summary,
        Variant("int8", "a-model", scheme="int8"),
        make_comparison(),
        comparison.summary,
        make_comparison().flips(3),
        make_comparison().flips(3, "commonest"),
        audit.closest(3),
        *unembed.audit(llama, corpus, AuditOptions(max_positions=64, slices=1)).slices,
        PositionFilter(classes=("content",)),
        LayersOptions(depths=(0, 2)),
        layers := make_layers(),
        layers.summary,
        layers.passage(0, 0, 3),
        make_layers_comparison(),
        # Changed
        unembed.Recipe(),
        unembed.Recipe(Objective("margin"), 0.15, scope="lora", lora=Lora()),
        unembed.Grid((objective,), (0.1, 0.3)),
        unembed.Doses(table, table, {"fisher-0.3-seed1": "it diverged"}),
        unembed.Refinement(make_summary(), comparison, comparison, folder / "refined"),
        benchmarks(),
        Budget(nll=0.01),
        Lora(),
        objective,
        Positions(np.arange(3), np.ones(3, dtype=np.float32)),
        Protection(),
        Schedule(after=0.5),
        Weighting(),
        Examples.of(corpus, 64),
        HeadHook.of(llama),
        PenaltyTerm(objective, 0.5, reference=llama),
        # Chosen
        *signed(folder),
        sketches,
        Sketcher.of(reading, sketches, checkpoint, "a task"),
        samples_of(reading, "a task"),
        Verbalizers(("yes", "no"), (" yes", " no"), True, "0f"),
        batch_sums(empty(8), features_of(6), np.array([1, 1, 2, 2, 3, 3])),
        *(alignments.example(n) for n in (1, 12, 40)),
        network_signatures.network_signed("a task", network_signatures.network_task(6, 1)),
        NetworkOptions(m=64),
        network_signatures.network_alignments(3),
        selection.ranking(12, missing=2),
        selection.mixture(7),
        transfer,
        *transfer.scores[:1],
        JudgedTransfer(transfer, verdicts),
        compared(transfer, "joint", "oracle"),
        selection.plane(30),
    ]


def benchmarks() -> Benchmarks:
    """Also where the harness is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unembed.training.benchmarks.pair.check_tasks", lambda *_: None)
        return Benchmarks(("arc_easy",))


def signed(folder: Path) -> list[Any]:
    """Signatures, an index of them, and what it answers."""
    some = [signatures.random_signature(f"task {i}", i) for i in range(3)]
    index = unembed.Index.create(folder / "index", some[0].identity)
    index.add(some)
    return [*some, index, index.query(some[0])]


def features_of(rows: int) -> Features:
    kinds = (torch.randn(rows, 8) for _ in range(3))
    return Features(*kinds, squared_norm=torch.ones(rows))


def reached(thing: Any) -> Iterator[Any]:
    """A record and every record inside it, the first of many alike."""
    if isinstance(thing, Mapping):
        thing = tuple(thing.values())
    if isinstance(thing, tuple | list):
        for one in thing[:20]:
            yield from reached(one)
    elif type(thing).__module__.startswith("unembed"):
        yield thing
        if dataclasses.is_dataclass(thing):
            for field in dataclasses.fields(thing):
                yield from reached(getattr(thing, field.name))


def test_every_public_object_prints_in_a_line_and_is_a_table(things: list[Any]) -> None:
    kinds = set()
    for one in (inner for thing in things for inner in reached(thing)):
        kinds.add(type(one))
        line = repr(one)
        assert len(line) < LONGEST, line
        assert "\n" not in line
        if isinstance(one, ShortRepr):
            assert line.startswith(f"{type(one).__name__}(")
            assert Elements(one._repr_html_()).tags[0][0] == "table"
    public = {
        thing
        for package in PACKAGES
        for thing in vars_of(f"unembed{package}")
        if inspect.isclass(thing)
    }
    left = public - kinds
    assert left == NO_RECORDS, left ^ NO_RECORDS


def test_a_repr_computes_nothing(things: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    [audit] = [thing for thing in things if isinstance(thing, unembed.Audit)]
    loaded = unembed.Audit.load(audit.folder)
    fresh = dataclasses.replace(loaded)

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("the table is read")

    with monkeypatch.context() as patch:
        patch.setattr("unembed.runs.arrays.pq.ParquetFile", refused)
        line = repr(fresh)
    documents = int((fresh.documents["positions"].to_numpy() > 0).sum())
    assert line == f"Audit(a small model, {len(fresh):,} positions in {documents} documents)"
    median = fresh.summary.median_margin
    assert repr(fresh) == repr(loaded) == f"{line[:-1]}, median margin {median})"
    assert f"{len(fresh):,} in {documents} documents" in fresh._repr_html_()


def test_results_say_first_what_a_reader_asks_first(things: list[Any]) -> None:
    line = {type(thing).__name__: repr(thing) for thing in things}
    before_and_after = make_comparison()
    assert f"{before_and_after.summary.flips.changed:,} changed" in repr(before_and_after)
    assert f"churn {full(before_and_after.summary.flips.churn, share)}" in repr(before_and_after)
    assert line["Checkpoint"].startswith("Checkpoint(a small model, LlamaForCausalLM, 87,792")
    assert line["Checkpoint"].endswith("parameters, float32 on cpu, 477 tokens)")
    assert line["Head"] == "Head(W h, 480 × 48 float32, 477 tokens, not tied)"
    assert line["Index"].endswith("index, 3 entries by joint, float32 of m = 64)")
    assert line["Signature"].startswith("Signature(task 2, 60 tokens in 20 documents, ")
    assert line["Alignments"].startswith("Alignments(40 tasks, complex_tensorsketch")
    assert line["Ranking"].startswith("Ranking(for field notes by joint, 12 sources, sonnets ")
    assert "1 failed" in line["Doses"]
    assert "held out: median Δ margin +0.03 [" in line["Refinement"]


def test_options_show_what_is_not_the_default(things: list[Any]) -> None:
    recipes = [repr(thing) for thing in things if isinstance(thing, unembed.Recipe)]
    assert recipes[0] == "Recipe()"
    assert recipes[1] == (
        "Recipe(objective=Objective(name='margin'), weight=0.15, scope='lora', lora=Lora())"
    )
    assert "learning_rate" in unembed.Recipe()._repr_html_()


@dataclass(frozen=True)
class Odd(ShortRepr):
    text: str
    numbers: Any
    left_out: str = "usual"


def test_long_values_are_cut_and_counted() -> None:
    assert repr(Odd("a", (1, 2.5), "usual")) == "Odd(text='a', numbers=(1, 2.5))"
    assert repr(Odd("a", list(range(400)))).endswith(", … 400 in all])")
    assert repr(Odd("a", np.zeros((3, 4), np.float32))) == "Odd(text='a', numbers=float32[3, 4])"
    assert repr(Odd("a", torch.zeros(2))) == "Odd(text='a', numbers=float32[2])"
    assert (
        repr(Odd("a", {"b": None}, "other"))
        == "Odd(text='a', numbers={'b': None}, left_out='other')"
    )
    long = repr(Odd("x" * 900 + "end", Odd("y" * 70, 1)))
    assert "end'" in long
    assert long.endswith("numbers=Odd(…))")
    assert Odd("<b>", 1)._repr_html_() == (
        "<table><tr><th>text</th><td>&#x27;&lt;b&gt;&#x27;</td></tr>"
        "<tr><th>numbers</th><td>1</td></tr><tr><th>left_out</th><td>&#x27;usual&#x27;</td></tr></table>"
    )


def vars_of(package: str) -> list[Any]:
    module = import_module(package)
    return [getattr(module, name) for name in module.__all__]
