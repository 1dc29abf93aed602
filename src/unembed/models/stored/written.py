"""Final hidden states of a text, written to disk: states(model, corpus, out) -> WrittenStates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unembed.errors import UnembedError, need
from unembed.models.depths import Depths
from unembed.models.mode import restores_mode
from unembed.models.model_pass import ModelPass, ReadingOptions
from unembed.models.stored.files import DTYPES, STATES, TOKENS
from unembed.models.stored.head_and_tail import one_block_digest
from unembed.models.stored.norm_side import Side
from unembed.models.stored.own import DOCUMENTS, KIND, PARTS, TEXT
from unembed.runs.arrays import text_array
from unembed.runs.files import check_room
from unembed.runs.manifest import read_run, verified_run
from unembed.runs.phases import Phases, current_phases
from unembed.runs.progress import progress_bar
from unembed.runs.provenance import SCHEMA, Provenance, provenance_of
from unembed.runs.ranks import current_ranks
from unembed.runs.store import RunFolder
from unembed.runs.table import as_text
from unembed.short_repr import ShortRepr
from unembed.stats.forms import in_bytes
from unembed.text.batches import Batch
from unembed.text.corpus import Corpus

TEXT_TOKENS = 1 << 22
"""Tokens in a file of the text, and those of a row more."""
PLACES = ("doc", "pos", TOKENS, "target_ids")
"""What a part holds of each position beside its state: 32-bit whole numbers."""
SPELT = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class StatesOptions(ReadingOptions):
    """How to store the states of a text that is read as ``ReadingOptions`` says.

    ``before_norm`` stores what the last block leaves, before the final norm, in place of the head's
    input.
    """

    before_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stored is not None:
            raise UnembedError("states are made by a model, not of states: leave stored out")


@dataclass(frozen=True)
class WrittenStates(ShortRepr):
    """A finished run of ``states``: what is in its folder, and what made it.

    ``side`` is that of the final norm on which the states lie, ``width`` how many numbers one has,
    ``bytes`` what all of them take.
    """

    folder: Path
    provenance: Provenance
    positions: int
    documents: int
    side: Side
    width: int
    dtype: str
    bytes: int

    @staticmethod
    def load(folder: str | Path) -> WrittenStates:
        """Open a finished run, every file compared with its recorded SHA-256.

        Raises UnembedError where the folder holds none, one of another kind, or a damaged one.
        """
        verified_run(folder, KIND, SCHEMA)
        return WrittenStates._opened(Path(folder))

    @staticmethod
    def _opened(folder: Path) -> WrittenStates:
        run = read_run(folder)
        facts, found = Provenance.from_json(run.key), run.summary()
        names = ("positions", "documents", "side", "width", "dtype", "bytes")
        return WrittenStates(folder, facts, **{name: found[name] for name in names})

    def __str__(self) -> str:
        each = f"{self.width:,} numbers in {self.dtype}, {self.side.replace('-', ' the final ')}"
        rows = [
            ("positions", f"{self.positions:,} in {self.documents:,} documents"),
            ("a state", each),
            ("states", in_bytes(self.bytes)),
            *(("note", note) for note in self.provenance.text.notes),
        ]
        return as_text(rows)

    def _phrases(self) -> Iterator[str]:
        yield self.provenance.model
        yield f"{self.positions:,} positions of {self.width:,} × {self.dtype}"
        yield self.side


@dataclass(frozen=True)
class _Piece:
    """The states of a batch's positions, with their places."""

    places: dict[str, Int[np.ndarray, " positions"]]
    states: Float[Tensor, "positions width"]


@restores_mode
def states(
    model: nn.Module,
    corpus: Corpus,
    out: str | Path,
    options: StatesOptions | None = None,
    *,
    name: str | None = None,
    command: str = "",
    progress: bool = False,
    phases: Phases | None = None,
) -> WrittenStates:
    """Write the final hidden states of a text, which an audit reads in place of a body.

    ``out`` is the folder of a run: a killed one goes on where it stopped when called again, to the
    same bytes. It holds ``states/part-*.safetensors``, with ``hidden_states [positions, width]``
    and beside each its ``doc``, ``pos``, ``token_ids`` (the token that it was read at) and
    ``target_ids`` (the token after it), in order of the text; ``text/part-*.safetensors``, all
    token ids of the text end to end with ``row_tokens``, ``row_document`` and, of completions,
    ``counted``; and ``documents.parquet``, their names. The states are the head's input at every
    position that an audit with the same options measures, bit for bit. Raises UnembedError for
    input that cannot be used, and where the disk has no room. Source: theory §15.
    """
    need(model, nn.Module, "give the model itself, such as load(name).model")
    need(corpus, Corpus, "give Corpus.read(path, tokenizer)")
    options = options or StatesOptions()
    phases = phases or current_phases()
    model.eval()
    with phases("prepare"):
        name = name or type(model).__name__
        reading = ModelPass.of(model, corpus, options, name, hash_model=True)
        assert reading.proof is not None
        depths = Depths.of(model) if options.before_norm else None
        dtype = reading.proof.hidden.dtype
        width = reading.head.dim if depths is None else depths.widths[-1]
        side: Side = "after-norm" if depths is None else "before-norm"
        given = {
            "states": side,
            "width": width,
            "one_block": one_block_digest(model),
            **reading.how_read(options),
        }
        provenance = provenance_of(
            KIND,
            name,
            model,
            reading.head,
            reading.precision,
            reading.windows.facts,
            reading.plan.batch_tokens,
            reading.plan.part_positions,
            given,
            threads=reading.threads,
            model_digest=reading.model_digest(),
        )
    positions = reading.windows.positions
    each = width * dtype.itemsize

    def work(team: tuple[nn.Module, ...], batch: Batch, share: Phases) -> _Piece:
        if depths is None:
            found = reading.hidden(team[0], batch, share)
        else:
            found = reading.streams(team[0], batch, share, depths, [depths.blocks]).states[
                depths.blocks
            ]
        return _Piece(_places(batch), found.cpu())

    reading.check_shares(current_ranks())
    with RunFolder.open(out, provenance.to_json()) as folder:
        if not folder.finished:
            finished = [part for path, part in folder.done.items() if path.startswith(PARTS)]
            done = frozenset(Path(part.path).stem for part in finished)
            left = positions - sum(part.rows for part in finished)
            needed = left * (each + 4 * len(PLACES)) + 4 * corpus.tokens
            check_room(folder.folder, needed, f"the states of {left:,} positions")
            with progress_bar("states", "tok", positions, progress) as bar:
                results = reading.results(work, bar, phases, done=done, ranks=folder.ranks)
                for part, pieces in results:
                    with phases("write"):
                        rows = sum(len(piece.states) for piece in pieces)
                        file = _as_file(pieces, rows, width, dtype)
                        folder.write_bytes(f"{PARTS}{part}.safetensors", file, rows)
            summary = {
                "positions": positions,
                "documents": len(np.unique(reading.windows.doc)),
                "side": side,
                "width": width,
                "dtype": str(dtype).removeprefix("torch."),
                "bytes": positions * each,
                "counted": corpus.counted is not None,
                "remarks": list(corpus.remarks),
            }

            def finish() -> None:
                with phases("write"):
                    _write_text(folder, corpus)
                    folder.finish(command, summary)

            folder.by_first(finish)
    return WrittenStates._opened(Path(out))


def _places(batch: Batch) -> dict[str, Int[np.ndarray, " positions"]]:
    """Where a batch's positions are, the token that each was read at, and the one after it."""
    read = torch.cat([block.input_ids[block.real] for block in batch.blocks])
    columns = (batch.doc, batch.pos, read.numpy(), batch.targets.numpy())
    return {name: column.astype(np.int32) for name, column in zip(PLACES, columns, strict=True)}


def _as_file(pieces: list[_Piece], rows: int, width: int, dtype: torch.dtype) -> bytearray:
    """A safetensors file of a part, in order of the text; its pieces are given up one by one.

    The states are copied into the file's own bytes, so that a part is held once and a batch more.
    """
    places = {name: np.concatenate([piece.places[name] for piece in pieces]) for name in PLACES}
    order = np.lexsort((places["pos"], places["doc"]))
    target = np.empty(rows, dtype=np.int64)
    target[order] = np.arange(rows)
    sizes = {STATES: rows * width * dtype.itemsize, **dict.fromkeys(PLACES, 4 * rows)}
    shapes = {STATES: [rows, width], **{name: [rows] for name in PLACES}}
    kinds = {STATES: SPELT[dtype], **dict.fromkeys(PLACES, "I32")}
    data, begins = _blank(sizes, shapes, kinds)
    held = torch.frombuffer(data, dtype=dtype, count=rows * width, offset=begins[STATES])
    states, first = held.view(rows, width), 0
    for i, piece in enumerate(pieces):
        count = len(piece.states)
        states[torch.from_numpy(target[first : first + count])] = piece.states
        first += count
        pieces[i] = _Piece({}, piece.states[:0].clone())
    for name, column in places.items():
        np.frombuffer(data, np.int32, rows, begins[name])[:] = column[order]
    return data


def _blank(
    sizes: dict[str, int], shapes: dict[str, list[int]], kinds: dict[str, str]
) -> tuple[bytearray, dict[str, int]]:
    """A safetensors file of zeros, and where in it each tensor begins."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "of": "unembed states"}}
    at = 0
    for name, size in sizes.items():
        header[name] = {
            "dtype": kinds[name],
            "shape": shapes[name],
            "data_offsets": [at, at + size],
        }
        at += size
    words = json.dumps(header, separators=(",", ":")).encode()
    words += b" " * (-len(words) % 8)
    data = bytearray(8 + len(words) + at)
    data[: 8 + len(words)] = len(words).to_bytes(8, "little") + words
    begins = {name: 8 + len(words) + header[name]["data_offsets"][0] for name in sizes}
    return data, begins


def _write_text(folder: RunFolder, corpus: Corpus) -> None:
    """The token rows of a text, some millions of tokens a file, and its documents' names."""
    from safetensors.numpy import save

    starts = corpus.starts
    first, number = 0, 0
    while first < corpus.rows:
        last = int(np.searchsorted(starts, starts[first] + TEXT_TOKENS, side="right")) - 1
        last = min(max(last, first + 1), corpus.rows)
        span = slice(int(starts[first]), int(starts[last]))
        tensors = {
            TOKENS: np.array(corpus.ids[span], dtype=np.int32),
            "row_tokens": np.diff(starts[first : last + 1]).astype(np.int32),
            "row_document": np.array(corpus.document[first:last], dtype=np.int32),
        }
        if corpus.counted is not None:
            tensors["counted"] = np.array(corpus.counted[span], dtype=np.uint8)
        path = f"{TEXT}part-{number:05d}.safetensors"
        if path not in folder.done:
            folder.write_bytes(path, save(tensors), rows=0)
        first, number = last, number + 1
    if DOCUMENTS not in folder.done:
        names = pa.table({"name": text_array(corpus.names)})
        folder.write_table(DOCUMENTS, names)
