"""Signatures and alignments as short text: what the command line and a console print."""

from __future__ import annotations

import math
from collections.abc import Mapping

from unembed.runs.columns import columns
from unembed.runs.table import NAME_WIDTH
from unembed.signatures.alignment.estimators import LEAST_DOCUMENTS
from unembed.signatures.alignment.kinds import ALIGNMENT_KINDS, KINDS
from unembed.signatures.alignment.records import Alignments, Pairs
from unembed.signatures.network.signature import NetworkSignature
from unembed.signatures.signature import Signature
from unembed.signatures.state import State
from unembed.stats.forms import cosine, determined, full, plus_minus, two

CELL_WIDTH = 14
LABEL = ": a gradient in it can be noise"
LONE = (
    "no two samples are independent, as all are of one document, so that nothing can be compared "
    "with it: sketch more documents, or merge another signature"
)
LABELS = {"float32": ""}
"""What is said of the dtype of a backward pass."""
MOST_IN_MATRIX = 8
"""Tasks whose matrix fits a terminal; of more, so many pairs at each end are listed."""
MOST_IN_NOTEBOOK = 24
"""Tasks whose matrix fits a notebook; of more, so many pairs are listed."""
MOST_DETAILED = 3
"""Tasks of which every quantity of every pair is listed."""


def signature_text(signature: Signature) -> str:
    """A line for each thing that tells signatures apart."""
    state, identity = signature.state, signature.identity
    spec = identity.spec
    rows = [
        ("task", signature.name),
        ("samples", f"{state.samples:,.0f} {identity.unit}s in {state.documents:,} documents"),
        ("Fisher", identity.fisher),
        ("sketch", f"{spec.construction}, m = {spec.m:,}, seed {spec.seed}"),
        ("head", f"{spec.vocab:,} x {spec.dim:,} of {signature.facts.get('model', 'a model')}"),
    ]
    if identity.part:
        rows.append(("part", f"{identity.part} of the network, {identity.backward} backward"))
    if identity.support:
        rows.append(("softmax", f"over answer words alone ({identity.support[:12]})"))
    return columns([*rows, *_notes(signature.facts, state)], NAME_WIDTH)


def network_text(signature: NetworkSignature) -> str:
    """A line for each thing that tells signatures of networks apart."""
    state, spec = next(iter(signature.states.values())), signature.head
    kinds = ", ".join(signature.kinds) or "the head alone"
    rows = [
        ("task", signature.name),
        ("samples", f"{state.samples:,.0f} {signature.unit}s in {state.documents:,} documents"),
        ("sample", signature.facts.get("sample", "")),
        ("modules", f"{len(signature.modules):,} ({kinds})"),
        ("left out", signature.facts.get("left_out", "")),
        ("backward", f"{signature.precision}{LABELS.get(signature.precision, LABEL)}"),
        ("sketch", f"{spec.construction}, m = {spec.m:,} a module, seed {spec.seed}"),
        ("model", signature.facts.get("model", "a model")),
    ]
    rows += _notes(signature.facts, state)
    return columns([(name, said) for name, said in rows if said], NAME_WIDTH)


def _notes(facts: Mapping[str, str], state: State) -> list[tuple[str, str]]:
    """What its text's reader said, and whether anything can be compared with it."""
    said = [("note", facts["notes"])] if "notes" in facts else []
    if state.documents < LEAST_DOCUMENTS:
        said.append(("note", LONE))
    return said


def alignments_text(found: Alignments) -> str:
    """The matrix of joint alignments, or its ends, with the coupling, and what tasks lack."""
    parts = [_matrix(found) if len(found.tasks) <= MOST_IN_MATRIX else _ends(found)]
    wanting = [f"{task.name}: {task.status}" for task in found.tasks if task.status != "ok"]
    return "\n".join([*parts, *wanting])


def alignment_rows(found: Alignments) -> list[list[str]]:
    """A header, then the matrix of joint alignments or, of many tasks, the pairs most alike."""
    if len(found.tasks) <= MOST_IN_NOTEBOOK:
        return _matrix_rows(found)
    pairs = [
        [f"{found.tasks[j].name}, {found.tasks[i].name}", _shown(found, "joint", i, j)]
        for i, j in most_alike_first(found)[:MOST_IN_NOTEBOOK]
    ]
    return [["most alike", "joint"], *pairs]


def _matrix(found: Alignments) -> str:
    width = min(NAME_WIDTH, 2 + max(len(name) for name in ("joint", *found.names)))
    (first, *names), *rows = _matrix_rows(found)
    each = max(CELL_WIDTH, 2 + max(len(cell) for _, *cells in rows for cell in cells))
    header = [first, *(name[: each - 2] for name in names)]
    text = columns([header, *rows], width, *[each] * len(found.tasks))
    if len(found.tasks) > MOST_DETAILED:
        return text
    return "\n".join([text, "", *(_pair(found, i, j, True) for i, j in _pairs(found))])


def _matrix_rows(found: Alignments) -> list[list[str]]:
    rows = [["joint", *found.names]]
    for i, task in enumerate(found.tasks):
        rows.append([task.name, *(_cell(found.joint, i, j) for j in range(i + 1))])
    return rows


def most_alike_first(found: Alignments) -> list[tuple[int, int]]:
    """Pairs by falling joint; those whose joint is not determined last."""

    def place(pair: tuple[int, int]) -> tuple[bool, float]:
        return not determined(found.joint.estimate(*pair), cosine), -float(found.joint.value[pair])

    return sorted((p for p in _pairs(found) if not math.isnan(found.joint.value[p])), key=place)


def _ends(found: Alignments) -> str:
    ranked = most_alike_first(found)
    if not ranked:
        return "no two tasks can be compared"
    if len(ranked) <= 2 * MOST_IN_MATRIX:
        return "\n".join(_pair(found, *pair) for pair in ranked)
    top, bottom = ranked[:MOST_IN_MATRIX], ranked[-MOST_IN_MATRIX:]
    left_out = f"… {len(ranked) - 2 * MOST_IN_MATRIX:,} pairs between: see the report"
    return "\n".join(
        [*(_pair(found, *p) for p in top), left_out, *(_pair(found, *p) for p in bottom)]
    )


def _pairs(found: Alignments) -> list[tuple[int, int]]:
    return [(i, j) for i in range(len(found.tasks)) for j in range(i)]


def _pair(found: Alignments, i: int, j: int, every: bool = False) -> str:
    """One pair: joint with its interval, and, where asked for, every other quantity."""
    names = f"{found.tasks[j].name}, {found.tasks[i].name}"
    if not every:
        return f"{names:<{2 * NAME_WIDTH}}{_shown(found, 'joint', i, j)}"
    lines = [names]
    for kind in KINDS:
        if found.pairs(kind) is not None:
            lines.append(f"  {kind.replace('_', ' '):<{NAME_WIDTH - 2}}{_shown(found, kind, i, j)}")
    return "\n".join(lines)


def _cell(pairs: Pairs, i: int, j: int) -> str:
    return plus_minus(pairs.estimate(i, j), cosine if i != j else two)


def _shown(alignments: Alignments, kind: str, i: int, j: int) -> str:
    pairs = alignments.pairs(kind)
    assert pairs is not None
    one = pairs.estimate(i, j)
    return str(one.reason) if one.value is None else full(one, ALIGNMENT_KINDS[kind].form)
