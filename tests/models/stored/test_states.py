"""Final hidden states on disk: what an audit of them gives is what one of the text gives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import unembed
from killing import killed_at
from made_up.corpora import TEXTS
from made_up.models import small_model
from places import SHARED
from unembed import Checkpoint, Corpus, audit, load
from unembed.decisions import AuditOptions, LayersOptions
from unembed.errors import UnembedError
from unembed.models import (
    ModelPass,
    ReadingOptions,
    StatesOptions,
    StoredStates,
    WrittenStates,
    states,
)
from unembed.models.stored.head_and_tail import load_head_and_tail
from unembed.runs import files
from unembed.runs.phases import Phases
from unembed.runs.store import RunFolder
from unembed.text.batches import batches

BUNDLED = Path(unembed.__file__).parent / "demo" / "model"
HOW: dict[str, Any] = {"context": 12, "part_positions": 40}
Save = Callable[..., Path]


@pytest.fixture(scope="module")
def corpus(tokenizer: Any) -> Corpus:
    return Corpus.from_texts(TEXTS, tokenizer)


@pytest.fixture(scope="module")
def written(llama: Any, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("states")
    states(llama, corpus, folder / "run", StatesOptions(**HOW))
    return folder / "run"


def stored_audit(
    folder: Path, model: Checkpoint, out: Path, **more: Any
) -> tuple[StoredStates, unembed.Audit]:
    stored = StoredStates.read(folder, model)
    options = AuditOptions(part_positions=HOW["part_positions"], stored=stored, **more)
    return stored, audit(model.model, stored.corpus, options, out=out, name="model")


def same_files(one: Path, other: Path) -> None:
    """Every file but those that say how the run was made."""
    names = {p.relative_to(one) for p in one.rglob("*") if p.is_file()}
    assert {p.relative_to(other) for p in other.rglob("*") if p.is_file()} == names
    compared = {name for name in names if name.name not in ("manifest.json", ".lock")}
    assert {"summary.json", "part-00000.parquet"} <= {name.name for name in compared}
    for name in compared:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("llama", torch.float32),
        ("llama", torch.bfloat16),
        ("gemma2", torch.float32),
        ("opt", torch.float32),
        ("gpt2", torch.bfloat16),
    ],
)
def test_an_audit_of_stored_states_is_that_of_the_text_to_the_bit(
    name: str,
    dtype: torch.dtype,
    before: bool,
    checkpoint: Save,
    small_tokenizer: Any,
    tmp_path: Path,
) -> None:
    folder = checkpoint(small_model(name, dtype), small_tokenizer)
    whole = load(folder)
    text = Corpus.from_texts(TEXTS, small_tokenizer)
    direct = audit(whole.model, text, AuditOptions(**HOW), out=tmp_path / "direct", name="model")
    states(whole.model, text, tmp_path / "states", StatesOptions(before_norm=before, **HOW))
    head, _why = load_head_and_tail(str(folder))
    made = stored_audit(tmp_path / "states", head, tmp_path / "stored")[1]
    same_files(tmp_path / "direct", tmp_path / "stored")
    ours, theirs = made.provenance.to_json(), direct.provenance.to_json()
    stated = ours["options"].pop("hidden_states")
    assert stated["are"] == ("before-norm" if before else "after-norm")
    assert ours == theirs
    assert "stored: unembed states" in str(made)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("where", ["bundled", "stories260K"])
def test_so_it_is_of_trained_models(where: str, dtype: str, tmp_path: Path) -> None:
    folder = BUNDLED if where == "bundled" else SHARED / "models" / where
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    whole = load(folder, dtype=dtype)
    text = Corpus.from_texts(TEXTS, whole.tokenizer)
    audit(whole.model, text, AuditOptions(**HOW), out=tmp_path / "direct")
    states(whole.model, text, tmp_path / "states", StatesOptions(**HOW))
    head, _why = load_head_and_tail(str(folder), dtype=dtype)
    stored, _made = stored_audit(tmp_path / "states", head, tmp_path / "stored")
    same_files(tmp_path / "direct", tmp_path / "stored")
    side = stored.side
    assert side.after is not None
    assert side.before is not None
    assert side.after < min(side.before, side.guessing)
    assert side.unit == 1


def test_completions_rows_of_a_document_and_fewer_positions(
    llama: Any, llama_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    pairs = [{"prompt": "lambda x: " * n, "completion": " return a function"} for n in (1, 9, 3)]
    text = Corpus.from_pairs(pairs, tokenizer, names=["one", "two", "three"])
    direct = audit(llama, text, AuditOptions(**HOW), out=tmp_path / "direct")
    states(llama, text, tmp_path / "states", StatesOptions(**HOW))
    head, _why = load_head_and_tail(str(llama_folder))
    stored_audit(tmp_path / "states", head, tmp_path / "stored")
    same_files(tmp_path / "direct", tmp_path / "stored")
    few = stored_audit(tmp_path / "states", head, tmp_path / "few", max_positions=5)[1]
    assert len(few) == 5
    assert few.column("margin").tolist() == direct.column("margin")[:5].tolist()
    with pytest.raises(UnembedError, match="--max-positions 999 is more than the"):
        stored_audit(tmp_path / "states", head, tmp_path / "more", max_positions=999)
    with pytest.raises(UnembedError, match="--context 7 is not the 12 of the stored states"):
        stored_audit(tmp_path / "states", head, tmp_path / "other", context=7)


def test_the_layout_is_the_documented_one(llama: Any, corpus: Corpus, written: Path) -> None:
    parts = sorted((written / "states").iterdir())
    assert len(parts) > 2
    held = [load_file(part) for part in parts]
    whole = {name: torch.cat([one[name] for one in held]) for name in held[0]}
    reading = ModelPass.of(llama, corpus, ReadingOptions(**HOW), "model")
    seen: dict[tuple[int, int], tuple[int, torch.Tensor]] = {}
    plan = reading.plan
    for batch in batches(reading.windows, range(len(reading.windows.counts)), plan):
        hidden = reading.hidden(llama, batch, Phases())
        for i, (doc, pos) in enumerate(zip(batch.doc.tolist(), batch.pos.tolist(), strict=True)):
            seen[doc, pos] = int(batch.targets[i]), hidden[i]
    assert [*zip(whole["doc"].tolist(), whole["pos"].tolist(), strict=True)] == sorted(seen)
    for i, place in enumerate(sorted(seen)):
        target, state = seen[place]
        assert int(whole["target_ids"][i]) == target
        assert torch.allclose(whole["hidden_states"][i], state, atol=1e-4)
        assert int(whole["token_ids"][i]) == corpus.ids[corpus.starts[place[0]] + place[1]]
    again = WrittenStates.load(written)
    assert (again.positions, again.width, again.dtype) == (len(seen), 48, "float32")
    assert f"{len(seen):,} in 4 documents" in str(again)


def test_a_killed_run_goes_on_to_the_same_bytes(
    llama: Any, corpus: Corpus, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 3):
        with killed_at(monkeypatch, RunFolder, "write_bytes", number):
            states(llama, corpus, tmp_path, StatesOptions(**HOW))
    assert len([*(tmp_path / "states").iterdir()]) == 2
    with pytest.raises(UnembedError, match="holds an unfinished run: repeat its command"):
        StoredStates.read(tmp_path, Checkpoint("model", llama, corpus.tokenizer))
    states(llama, corpus, tmp_path, StatesOptions(**HOW))
    same = [path for path in written.rglob("*") if path.is_file() and path.name != ".lock"]
    for path in same:
        assert path.read_bytes() == (tmp_path / path.relative_to(written)).read_bytes(), path


def test_room_on_the_disk_is_asked_for_first(
    llama: Any, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        total, free = 1 << 40, 20_000

    monkeypatch.setattr(files.shutil, "disk_usage", lambda _place: Usage)
    with pytest.raises(UnembedError, match=r"0\.0 MiB free, and the states of 256 positions"):
        states(llama, corpus, tmp_path / "run", StatesOptions(**HOW))
    assert not (tmp_path / "run" / "states").exists()


def test_states_of_another_model_are_refused(
    llama: Any, llama_folder: Path, corpus: Corpus, written: Path, tokenizer: Any, checkpoint: Save
) -> None:
    head, _why = load_head_and_tail(str(llama_folder))

    def refused(model: Checkpoint, words: str) -> None:
        with pytest.raises(UnembedError, match=words):
            StoredStates.read(written, model)

    other = replace(head, model=load(llama_folder).model)
    with torch.no_grad():
        other.model.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    refused(other, r"made by LlamaForCausalLM \(\w{12}\), and .* has another embeddings, norms")
    with torch.no_grad():
        other.model.lm_head.weight[0, 0] += 1
    refused(other, "has another head: give the model that made them")
    narrow = load(llama_folder, dtype="bfloat16")
    refused(narrow, "made in float32, and .* is in bfloat16: give --dtype float32")
    wide = small_model("llama")
    refused(replace(head, model=wide), "holds token id|has another head")


@pytest.mark.parametrize("what", ["missing", "shorter", "changed", "text", "manifest"])
def test_a_damaged_folder_is_refused_by_its_file(
    what: str, llama_folder: Path, written: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(written, folder)
    part = folder / "states" / "part-00001.safetensors"
    words = {
        "missing": "part-00001.safetensors is missing from the run",
        "shorter": "part-00001.safetensors is damaged or no safetensors file",
        "changed": "part-00001.safetensors is damaged: its SHA-256",
        "text": r"text/part-00000.safetensors is damaged: its SHA-256",
        "manifest": "manifest.json is damaged",
    }[what]
    if what == "missing":
        part.unlink()
    elif what == "shorter":
        part.write_bytes(part.read_bytes()[:-4])
    else:
        place = {"text": folder / "text" / "part-00000.safetensors", "changed": part}
        path = place.get(what, folder / "manifest.json")
        data = bytearray(path.read_bytes())
        data[-50] ^= 1
        path.write_bytes(data)
    head, _why = load_head_and_tail(str(llama_folder))
    with pytest.raises(UnembedError, match=words):
        stored_audit(folder, head, tmp_path / "audit")
    assert not (tmp_path / "audit" / "manifest.json").exists()


def test_what_needs_the_body_is_refused(llama: Any, llama_folder: Path, written: Path) -> None:
    head, _why = load_head_and_tail(str(llama_folder))
    stored = StoredStates.read(written, head)
    with pytest.raises(UnembedError, match="--repeat-batching reads the text again"):
        AuditOptions(stored=stored, repeat_batching=2)
    with pytest.raises(UnembedError, match="states are made by a model, not of states"):
        StatesOptions(stored=stored)
    other = Corpus.from_texts(TEXTS[:2], head.tokenizer)
    with pytest.raises(UnembedError, match="the text is not that of the stored states"):
        audit(head.model, other, AuditOptions(stored=stored))
    with pytest.raises(UnembedError, match="stored states are those of one depth"):
        LayersOptions(stored=stored)


def test_a_state_that_is_no_number_is_named_or_counted(
    llama: Any, llama_folder: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ModelPass.hidden

    def with_a_gap(self: ModelPass, model: Any, batch: Any, phases: Phases) -> torch.Tensor:
        found = plain(self, model, batch, phases).clone()
        found[(batch.doc == 2) & (batch.pos == 5)] = float("nan")
        return found

    with monkeypatch.context() as during:
        during.setattr(ModelPass, "hidden", with_a_gap)
        states(llama, corpus, tmp_path / "states", StatesOptions(**HOW))
    head, _why = load_head_and_tail(str(llama_folder))
    words = (
        r"stored states give logits that are not finite at document 'text 3' \(doc 2\) position 5"
    )
    with pytest.raises(UnembedError, match=words):
        stored_audit(tmp_path / "states", head, tmp_path / "audit")
    made = stored_audit(tmp_path / "states", head, tmp_path / "some", max_nonfinite=1)[1]
    assert made.summary.n_nonfinite == 1
    assert np.isnan(made.column("margin")).sum() == 1
