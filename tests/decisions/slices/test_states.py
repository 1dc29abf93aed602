from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from killing import killed_at
from made_up.corpora import TEXTS
from unembed import Audit, Corpus, audit
from unembed.decisions import AuditOptions
from unembed.decisions.audit.closest import ClosestCall
from unembed.decisions.slices.choose import slice_at
from unembed.decisions.slices.decision import FILE
from unembed.decisions.slices.states import NarrowStates, states_at
from unembed.errors import UnembedError
from unembed.head.head import final_hidden
from unembed.models.checkpoint import Checkpoint
from unembed.models.model_pass import ModelPass, ReadingOptions
from unembed.runs.phases import Phases
from unembed.runs.progress import progress_bar
from unembed.runs.store import RunFolder


@pytest.fixture(scope="module")
def corpus(tokenizer: Any) -> Corpus:
    return Corpus.from_texts(TEXTS, tokenizer)


OPTIONS = AuditOptions(context=24, batch_tokens=64, part_positions=120, slices=5)


@pytest.fixture(scope="module")
def drawn(llama: Any, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return audit(llama, corpus, OPTIONS, out=tmp_path_factory.mktemp("runs") / "x", name="llama")


def test_pictures_are_of_the_narrowest_decisions(drawn: Audit) -> None:
    assert len(drawn.slices) == 5
    for one, call in zip(drawn.slices, drawn.closest(5), strict=True):
        assert (one.document, one.position, one.context) == (
            call.document,
            call.position,
            call.context,
        )
        assert (one.margin, one.target_text, one.right) == (call.margin, call.target, call.right)
        assert one.slice.marks[0].text == call.chosen
        assert one.slice.margin == pytest.approx(call.margin, abs=1e-4)
        assert one.slice.remarks == ()
        assert one.slice.certificate.holds


def test_the_state_is_that_of_plain_transformers(drawn: Audit, llama: Any, corpus: Corpus) -> None:
    """Distances to walls from a row that the model reads alone."""
    one = drawn.slices[0]
    row = int((corpus.document == one.doc).nonzero()[0][0])
    ids = torch.tensor(corpus.ids[corpus.starts[row] : corpus.starts[row + 1]]).long()
    start = one.position // 24 * 24
    with torch.no_grad():
        hidden = final_hidden(llama, ids[None, start : start + 24])[0, one.position - start]
    weight = llama.get_output_embeddings().weight.detach().double()
    for wall in one.slice.walls:
        across = weight[wall.token] - weight[one.slice.marks[0].token]
        distance = float(-(across @ hidden.double()) / across.norm())
        assert wall.distance == pytest.approx(distance, rel=1e-3, abs=1e-6)


def test_a_run_loads_its_pictures_and_one_in_memory_has_the_same(
    drawn: Audit, llama: Any, corpus: Corpus
) -> None:
    assert drawn.folder is not None
    assert Audit.load(drawn.folder).slices == drawn.slices
    assert audit(llama, corpus, OPTIONS).slices == drawn.slices
    assert audit(llama, corpus, AuditOptions(context=24)).slices == ()


def test_a_killed_run_ends_in_the_same_pictures(
    drawn: Audit, llama: Any, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States of the parts that were written before are read again, to the bit."""
    with killed_at(monkeypatch, RunFolder, "write_table", 3):
        audit(llama, corpus, OPTIONS, out=tmp_path / "x", name="llama")
    audit(llama, corpus, OPTIONS, out=tmp_path / "x", name="llama")
    assert drawn.folder is not None
    assert (tmp_path / "x" / FILE).read_bytes() == (drawn.folder / FILE).read_bytes()


def test_states_are_kept_by_margin_whatever_the_order() -> None:
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 3, generator=g)
    columns = {
        "doc": torch.arange(40).numpy() % 4,
        "pos": torch.arange(40).numpy(),
        "margin": (torch.arange(40) * 7 % 40 // 2).numpy().astype("float32"),
        "finite": (torch.arange(40) != 0).numpy(),
    }
    found = []
    for order in (range(40), range(39, -1, -1)):
        kept = NarrowStates(6)
        for at in order:
            kept.offer({k: v[at : at + 1] for k, v in columns.items()}, hidden[at : at + 1])
        found.append(kept.held)
    whole = NarrowStates(6)
    whole.offer(columns, hidden)
    assert list(found[0]) == list(found[1]) == list(whole.held)
    finite = [at for at in range(40) if at != 0]
    want = sorted(finite, key=lambda at: (columns["margin"][at], at % 4, at))[:6]
    assert list(whole.held) == [(at % 4, at) for at in want]
    for at, (margin, state) in zip(want, whole.held.values(), strict=True):
        assert margin == columns["margin"][at]
        assert torch.equal(state, hidden[at])


def test_states_read_again_are_bitwise_those_of_the_pass(llama: Any, corpus: Corpus) -> None:
    reading = ModelPass.of(llama, corpus, ReadingOptions(context=24, batch_tokens=64), "llama")
    kept = NarrowStates(9)

    def work(team: Any, batch: Any, phases: Any) -> None:
        hidden = reading.hidden(team[0], batch, phases)
        margin = torch.arange(len(hidden)).numpy().astype("float32")
        here = {"doc": batch.doc, "pos": batch.pos, "margin": margin, "finite": margin >= 0}
        kept.offer(here, hidden)

    with progress_bar("x", "tok", 1, False) as bar:
        for _ in reading.results(work, bar, Phases()):
            pass
    places = list(kept.held)
    assert len(places) == 9
    assert torch.equal(states_at(reading, places), states_at(reading, places, kept))
    assert torch.equal(states_at(reading, places[::-1]), states_at(reading, places).flip(0))


def test_any_position_can_be_drawn_with_the_model_and_the_text(
    drawn: Audit, llama: Any, corpus: Corpus, tokenizer: Any
) -> None:
    given = Checkpoint("llama", llama, tokenizer, None), corpus
    kept = drawn.slices[2]
    for position in (2, drawn.closest(3)[2], (kept.doc, kept.position)):
        assert slice_at(drawn, position) == kept
    assert slice_at(drawn, (kept.document, kept.position)) == kept
    plain = audit(llama, corpus, AuditOptions(context=24, batch_tokens=64, part_positions=120))
    again = slice_at(plain, 2, *given)
    assert [cell.token for cell in again.slice.cells] == [c.token for c in kept.slice.cells]
    assert again.slice.walls[0].distance == pytest.approx(kept.slice.walls[0].distance, rel=1e-9)
    other = slice_at(drawn, 9, *given)
    assert other.margin == drawn.closest(10)[9].margin
    assert other.slice.remarks == ()
    assert slice_at(drawn, 2, *given, half=9.0).slice.window.right == 9.0


def test_what_is_not_there_is_refused_in_one_line(
    drawn: Audit, llama: Any, corpus: Corpus, tokenizer: Any
) -> None:
    names = corpus.names
    refused = {
        "position -1 is none of the": -1,
        f"position {len(drawn)} is none of the": len(drawn),
        f"document 99 is none of this audit's {len(names)}: give 0 to": (99, 0),
        "document 'no' is none of this audit's": ("no", 0),
        r"has no position 9999 in document 0 \(.*\): it has 0 to": (0, 9999),
        "keeps no such picture of document 0 position 0: give the model and the text": (0, 0),
    }
    for words, position in refused.items():
        with pytest.raises(UnembedError, match=words) as told:
            slice_at(drawn, position)
        assert "\n" not in str(told.value)
    call = ClosestCall("no", 1, "", "", "", 0.0, "", right=True)
    with pytest.raises(UnembedError, match="document 'no'"):
        slice_at(drawn, call)
    checkpoint = Checkpoint("llama", llama, tokenizer, None)
    with pytest.raises(UnembedError, match="the text is not the audited one"):
        slice_at(drawn, 7, checkpoint, Corpus.from_texts(TEXTS[:2], tokenizer))
    changed = deepcopy(llama)
    next(changed.parameters()).data += 1
    with pytest.raises(UnembedError, match="other is not the audited model"):
        slice_at(drawn, 7, Checkpoint("other", changed, tokenizer, None), corpus)
    with pytest.raises(UnembedError, match="slices must not be negative, got -1"):
        AuditOptions(slices=-1)
