"""Passages and documents of a run of layers, token by token, for the tables of its page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from unembed.decisions.audit.excerpt import spread_documents
from unembed.decisions.layers.layers import Layers
from unembed.decisions.layers.names import Lens
from unembed.decisions.layers.passage import Passage, cells_of
from unembed.decisions.layers.settling import settled_depths
from unembed.decisions.layers.stack import LensStack
from unembed.decisions.quoting import CONTEXT_TOKENS, Quoting
from unembed.runs.arrays import number_array
from unembed.short_repr import ShortRepr
from unembed.text.vocabulary import Vocabulary

PASSAGES, LATE_PASSAGES = 12, 3
"""Passages of a page at most, and how many of them are those whose decisions settle last."""
PASSAGE_TOKENS, LEAST_TOKENS = 24, 8
"""Positions of a passage, and of one at a document's end at least."""
MOST_CELLS = 12_000
"""Cells of all passages together, over depths and lenses."""
SETTLED_TOKENS, SETTLED_STEPS = 10_000, 90_000
"""Tokens whose settling depths a page shows at most, and tokens times depths."""


@dataclass(frozen=True)
class LensPassage(ShortRepr):
    """One passage under every lens that measured it; ``late`` ones settle last of all."""

    name: str
    late: bool
    passages: tuple[Passage, ...]

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens that the text goes on with."""
        return self.passages[0].tokens


@dataclass(frozen=True)
class SettledToken(ShortRepr):
    """One predicted token, and how the model came to its decision there.

    ``depth`` is where it settles, ``decided`` the model's token. ``path`` are the tokens on the
    way, from the first depth on, each with the first depth of its run. At a position that is not
    finite at some depth, ``depth`` is None and the path empty.
    """

    text: str
    depth: int | None
    path: tuple[tuple[int, str], ...]
    margin: float | None
    right: bool


@dataclass(frozen=True)
class SettledDocument(ShortRepr):
    """A document of the sample; ``lead`` is its first token, which nothing predicts."""

    name: str
    lead: str
    tokens: tuple[SettledToken, ...]


def passages(layers: Layers, count: int = PASSAGES, *, seed: int = 0) -> tuple[LensPassage, ...]:
    """Passages from all over the text, and a few whose decisions settle last, by mean depth.

    Each of ``PASSAGE_TOKENS`` positions that every measured lens has and that are finite at all
    depths, in order of the text. Fewer than ``count`` where depths and lenses are many, so that
    they have ``MOST_CELLS`` in all.
    """
    stacks = {lens: layers.stack(lens) for lens in layers.lenses}
    normed = stacks["normed"]
    rarest = min(stacks.values(), key=lambda stack: stack.n)
    settled = settled_depths(normed)[np.isin(_keys(normed), _keys(rarest))]
    fits = MOST_CELLS // (PASSAGE_TOKENS * len(normed.depths) * len(stacks))
    chosen = _chosen(rarest, settled, max(1, min(count, fits)), seed)
    found = [_Place(int(rarest.doc[at]), int(rarest.pos[at]), n, late) for at, n, late in chosen]
    by_lens = [list(_under(layers, lens, stacks["normed"], found)) for lens in layers.lenses]
    return tuple(
        LensPassage(views[0].document, place.late, views)
        for place, views in zip(found, zip(*by_lens, strict=True), strict=True)
    )


@dataclass(frozen=True)
class _Place:
    doc: int
    pos: int
    count: int
    late: bool


def _chosen(
    stack: LensStack, settled: Int[np.ndarray, " positions"], count: int, seed: int
) -> list[tuple[int, int, bool]]:
    """First row and length of each passage, and whether it settles last."""
    ends = (np.diff(stack.doc) != 0) | (np.diff(stack.pos) != 1)
    breaks = (np.flatnonzero(ends) + 1).tolist()
    pieces: list[tuple[int, int]] = []
    for first, last in zip([0, *breaks], [*breaks, stack.n], strict=True):
        starts = range(first, last, PASSAGE_TOKENS)
        pieces += [(at, min(PASSAGE_TOKENS, last - at)) for at in starts]
    long = [piece for piece in pieces if piece[1] >= LEAST_TOKENS]
    pieces = long or sorted(pieces, key=lambda piece: -piece[1])[:count]
    if not stack.n:
        return []
    means = np.array([settled[at : at + n].mean() for at, n in pieces])
    late = np.argsort(-means, kind="stable")[: min(LATE_PASSAGES, count // 2)].tolist()
    rest = np.setdiff1d(np.arange(len(pieces)), late)
    drawn = np.random.default_rng(seed).permutation(rest)[: count - len(late)].tolist()
    return [(*pieces[i], i in late) for i in sorted([*late, *drawn])]


def _under(
    layers: Layers, lens: Lens, normed: LensStack, places: Sequence[_Place]
) -> Iterator[Passage]:
    """Every passage under one lens; each table is read once."""
    decided_at = dict(zip(_keys(normed).tolist(), normed.final_top1.tolist(), strict=True))
    quoting = Quoting(layers.vocabulary, layers.documents, CONTEXT_TOKENS)
    rows: dict[int, list[pa.Table]] = {}
    firsts: list[int] = []
    befores: list[str] = []
    for depth in layers.depths:
        table = layers.table(lens, depth)
        if not firsts:
            keys = _row_keys(table)
            wanted = np.array([(one.doc << 32) + one.pos for one in places], dtype=np.int64)
            firsts = np.searchsorted(keys, wanted).tolist()
            befores = quoting.contexts(table, firsts)
        rows[depth] = [
            table.slice(at, place.count) for at, place in zip(firsts, places, strict=True)
        ]
    for i, place in enumerate(places):
        some = rows[layers.blocks][i]
        decided = [decided_at[key] for key in _row_keys(some).tolist()]
        yield Passage(
            document=layers.documents["name"][place.doc].as_py(),
            lens=lens,
            before=befores[i],
            positions=tuple(some["pos"].to_pylist()),
            tokens=tuple(layers.vocabulary[token] for token in some["target"].to_pylist()),
            depths=layers.depths,
            cells=tuple(
                cells_of(rows[depth][i], decided, layers.vocabulary) for depth in layers.depths
            ),
        )


def settled_documents(layers: Layers, tokens: int = SETTLED_TOKENS) -> list[SettledDocument]:
    """Whole documents spread evenly over the run, up to about ``tokens`` tokens, as ``excerpts``.

    Fewer where depths are many. Settling depths are those under the model's own tail.
    """
    tokens = min(tokens, max(1, SETTLED_STEPS // len(layers.depths)))
    stack = layers.stack("normed")
    sizes = layers.documents["positions"].to_numpy()
    table = layers.table("normed", layers.blocks, ("doc", "pos", "target"))
    places = {key: row for row, key in enumerate(_keys(stack).tolist())}
    settled = settled_depths(stack)
    docs = table["doc"].to_numpy()
    found = []
    for doc in spread_documents(sizes, tokens):
        rows = table.filter(number_array(docs == doc)).slice(0, tokens)
        about = layers.documents.slice(doc, 1).to_pylist()[0]
        views = []
        for target, key in zip(rows["target"].to_pylist(), _row_keys(rows).tolist(), strict=True):
            at, text = places.get(key), layers.vocabulary[target]
            if at is None:
                views.append(SettledToken(text, None, (), None, False))
                continue
            views.append(
                SettledToken(
                    text,
                    int(settled[at]),
                    tuple(_path(stack, at, layers.vocabulary)),
                    float(stack.final_margin[at]),
                    bool(stack.final_top1[at] == target),
                )
            )
        lead = layers.vocabulary[about["first_token"]]
        found.append(SettledDocument(about["name"], lead, tuple(views)))
    return found


def _path(stack: LensStack, at: int, words: Vocabulary) -> Iterator[tuple[int, str]]:
    """The top-1 of every depth, once for each run of depths that read the same token."""
    column = stack.top1[:, at]
    for i, depth in enumerate(stack.depths):
        if i == 0 or column[i] != column[i - 1]:
            yield depth, words[int(column[i])]


def _row_keys(table: pa.Table) -> Int[np.ndarray, " rows"]:
    return _numbered(table["doc"].to_numpy(), table["pos"].to_numpy())


def _keys(stack: LensStack) -> Int[np.ndarray, " positions"]:
    return _numbered(stack.doc, stack.pos)


def _numbered(
    doc: Int[np.ndarray, " rows"], pos: Int[np.ndarray, " rows"]
) -> Int[np.ndarray, " rows"]:
    """A number for each position, in order of the text."""
    keys: Int[np.ndarray, " rows"] = (doc.astype(np.int64) << 32) + pos
    return keys
