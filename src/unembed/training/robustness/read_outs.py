"""What a small disturbance does to a model's decisions: rounded weights or head, noisy logits."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unembed.decisions.audit.run import AuditOptions, AuditRun, Columns, joined
from unembed.decisions.native import native_top1
from unembed.errors import NonFiniteError, UnembedError
from unembed.head.divergence import SweptModel, divergence
from unembed.head.head import Head
from unembed.head.sweep import Sweep, sweep
from unembed.models.checkpoint import Checkpoint
from unembed.models.model_pass import ModelPass
from unembed.models.names import SCHEMES
from unembed.models.quantization import quantized, torchao_is_there
from unembed.runs.phases import Phases, current_phases
from unembed.runs.progress import progress_bar
from unembed.runs.provenance import Provenance
from unembed.short_repr import ShortRepr
from unembed.text.batches import Batch
from unembed.text.corpus import Corpus
from unembed.training.robustness.logit_noise import noise_flips

BODIES = (*SCHEMES, "bfloat16")
"""Disturbances that take a forward pass of their own."""

HEAD, LOGITS = "bfloat16 head", "bfloat16 logits"
CHANGES = (*BODIES, HEAD, LOGITS)
NOISE = (0.25, 0.5, 1.0)
NOISE_CANDIDATES = 64
"""Largest logits from which the chance of a flip under noise is taken; see ``noise_flips``."""

METADATA = b"unembed.read_outs"


@dataclass(frozen=True)
class Disturbance(ShortRepr):
    """One disturbance at each position, against the undisturbed model.

    ``flipped``: another top-1. ``acceptance``: the chance that a token which the disturbed model
    drafts is accepted, the sum of min(p, q). ``kl``: KL(undisturbed‖disturbed) in nats. The last
    two are None where only decisions were made.
    """

    flipped: Bool[np.ndarray, " positions"]
    acceptance: Float[np.ndarray, " positions"] | None
    kl: Float[np.ndarray, " positions"] | None


@dataclass(frozen=True)
class Noise(ShortRepr):
    """Normal noise of standard deviation ``deviation`` logits on every logit.

    ``chance`` of another top-1 at each position, by the NOISE_CANDIDATES largest logits: at most
    ``neglected`` too small, and never too large.
    """

    deviation: float
    chance: Float[np.ndarray, " positions"]
    neglected: Float[np.ndarray, " positions"]


@dataclass(frozen=True)
class ReadOuts(ShortRepr):
    """What disturbances do to one model's decisions on a text, position by position.

    ``provenance`` is the undisturbed model's; ``skipped`` says why a change was not measured.
    """

    provenance: Provenance
    doc: Int[np.ndarray, " positions"]
    pos: Int[np.ndarray, " positions"]
    changes: dict[str, Disturbance]
    noise: tuple[Noise, ...]
    skipped: dict[str, str]

    def to_table(self) -> pa.Table:
        """A row per position; everything else is in the schema's metadata, as JSON."""
        columns: dict[str, Any] = {"doc": self.doc, "pos": self.pos}
        for name, change in self.changes.items():
            found = {f"{name} {field}": column for field, column in vars(change).items()}
            columns |= {key: column for key, column in found.items() if column is not None}
        for one in self.noise:
            columns[f"noise {one.deviation!r} chance"] = one.chance
            columns[f"noise {one.deviation!r} neglected"] = one.neglected
        facts = {
            "provenance": self.provenance.to_json(),
            "changes": list(self.changes),
            "noise": [one.deviation for one in self.noise],
            "skipped": self.skipped,
        }
        return pa.table(columns).replace_schema_metadata({METADATA: json.dumps(facts)})

    @staticmethod
    def from_table(table: pa.Table) -> ReadOuts:
        """Read back what ``to_table`` made. Raises UnembedError for another table."""
        metadata = table.schema.metadata or {}
        if METADATA not in metadata:
            raise UnembedError(
                f"a table with the columns {', '.join(table.column_names[:4])} holds no read-outs: "
                "give one that ReadOuts.to_table made"
            )
        facts = json.loads(metadata[METADATA])

        def column(name: str) -> Any:
            return table[name].to_numpy() if name in table.column_names else None

        return ReadOuts(
            provenance=Provenance.from_json(facts["provenance"]),
            doc=column("doc"),
            pos=column("pos"),
            changes={name: _change(name, column) for name in facts["changes"]},
            noise=tuple(
                Noise(s, column(f"noise {s!r} chance"), column(f"noise {s!r} neglected"))
                for s in facts["noise"]
            ),
            skipped=facts["skipped"],
        )


def read_outs(
    checkpoint: Checkpoint,
    corpus: Corpus,
    *,
    changes: Sequence[str] = CHANGES,
    noise: Sequence[float] = NOISE,
    options: AuditOptions | None = None,
    progress: bool = False,
) -> ReadOuts:
    """What a model decides at every position of a text when it is disturbed in several ways.

    ``int8`` and ``int4`` are ``quantized``, skipped without torchao; ``bfloat16`` is the whole
    model in bfloat16, its logits still exact. ``bfloat16 head`` rounds the head's weight and the
    hidden state alone; ``bfloat16 logits`` rounds the logits too, as a bfloat16 model does itself,
    and ties go to the lowest id. All in one pass: the undisturbed model, which stays as it is, runs
    once, and a copy for each of the first three. ``noise`` is in logits; nothing is drawn, and its
    result is exact up to a stated bound.

    Of ``options`` the text's are used: context, overflow, positions and the batch size. Raises
    UnembedError for an unknown change or a negative deviation, NonFiniteError where a model
    has a logit that is not finite, and as ``audit`` does. Source: theory §6.
    """
    _check(changes, noise)
    deviations = tuple(float(deviation) for deviation in noise)
    skipped = {
        name: "torchao is not installed: pip install 'unembed[quant]'"
        for name in changes
        if name in SCHEMES and not torchao_is_there()
    }
    kept = [name for name in CHANGES if name in changes and name not in skipped]
    options = replace(options or AuditOptions(), top_k=2, facets=False, native_head=False)
    run = AuditRun.of(checkpoint.model.eval(), corpus, options, checkpoint.name)
    run.reading.head.must_be_whole("a read-out of robustness")
    bodies = {}
    for name in kept:
        if name in BODIES:
            other = _disturbed(checkpoint, name)
            bodies[name] = ModelPass.of(other.model, corpus, options, other.name)
    disturbances = _Disturbances(
        run, bodies, _rounded_head(run.reading.head), tuple(kept), deviations
    )
    with progress_bar("read-outs", "tok", run.reading.windows.positions, progress) as bar:
        found = disturbances.columns(bar)
    return ReadOuts(
        provenance=run.provenance,
        doc=found["doc"],
        pos=found["pos"],
        changes={name: _change(name, found.get) for name in kept},
        noise=tuple(
            Noise(s, found[f"{s!r} chance"], found[f"{s!r} neglected"]) for s in deviations
        ),
        skipped=skipped,
    )


@dataclass(frozen=True)
class _Disturbances:
    """The undisturbed run, those whose bodies are disturbed, and which columns to take."""

    run: AuditRun
    bodies: dict[str, ModelPass]
    rounded: Head
    changes: tuple[str, ...]
    noise: tuple[float, ...]

    @property
    def candidates(self) -> int:
        """How many of the largest logits the noise needs."""
        return NOISE_CANDIDATES if self.noise else 2

    def columns(self, bar: Any) -> Columns:
        """Every column of the whole text, in its order."""
        others = list(self.bodies.values())
        found = self.run.reading.results(self._batch, bar, current_phases(), others=others)
        return joined([columns for _part, pieces in found for columns in pieces])

    @torch.no_grad()
    def _batch(self, team: tuple[nn.Module, ...], batch: Batch, phases: Phases) -> Columns:
        run, name = self.run.reading, self.run.provenance.model
        hidden = run.hidden(team[0], batch, phases)
        whole = _swept(run, hidden, run.head, batch, name, self.candidates)
        assert isinstance(whole.swept, Sweep)
        plain = replace(whole, swept=_best_two(whole.swept))
        columns: dict[str, Tensor] = {}
        for (change, other), model in zip(self.bodies.items(), team[1:], strict=True):
            rows = other.hidden(model, batch, phases)
            swept = _swept(other, rows, other.head, batch, f"{name} in {change}")
            columns |= _divergence_columns(change, plain, swept)
        if HEAD in self.changes:
            swept = _swept(run, hidden.to(torch.bfloat16), self.rounded, batch, HEAD)
            columns |= _divergence_columns(HEAD, plain, swept)
        if LOGITS in self.changes:
            top1 = native_top1(hidden, self.rounded)
            columns[f"{LOGITS} flipped"] = top1 != plain.swept.topk_ids[:, 0]
        for s in self.noise:
            both = noise_flips(whole.swept.topk_values, whole.swept.logsumexp, s)
            for what, column in zip(("chance", "neglected"), both, strict=True):
                columns[f"{s!r} {what}"] = column.float()
        arrays = {name: column.cpu().numpy() for name, column in columns.items()}
        return arrays | {"doc": batch.doc, "pos": batch.pos}


def _swept(
    run: ModelPass,
    hidden: Float[Tensor, "positions dim"],
    head: Head,
    batch: Batch,
    name: str,
    k: int = 2,
) -> SweptModel:
    """A head's sweep over a batch's positions, by the run's product; refuses what is not finite."""
    swept = sweep(hidden, head, batch.targets.to(hidden.device), k=k, precision=run.precision)
    if not bool(swept.finite.all()):
        row = int((~swept.finite).nonzero()[0, 0])
        raise NonFiniteError(
            f"{name} gives logits that are not finite at doc {batch.doc[row]} position "
            f"{batch.pos[row]}: mend the weights, or leave that change out"
        )
    return SweptModel(hidden, head, swept, run.precision)


def _best_two(swept: Sweep) -> Sweep:
    """The sweep as for two candidates: the divergence needs as many of both models."""
    values, ids = swept.topk_values[:, :2], swept.topk_ids[:, :2]
    return replace(swept, topk_values=values, topk_ids=ids)


def _divergence_columns(name: str, plain: SweptModel, other: SweptModel) -> dict[str, Tensor]:
    found = divergence(plain, other)
    return {
        f"{name} flipped": other.swept.topk_ids[:, 0] != plain.swept.topk_ids[:, 0],
        f"{name} acceptance": found.acceptance,
        f"{name} kl": found.kl_forward,
    }


def _change(name: str, column: Callable[[str], Any]) -> Disturbance:
    return Disturbance(*(column(f"{name} {what}") for what in ("flipped", "acceptance", "kl")))


def _disturbed(checkpoint: Checkpoint, change: str) -> Checkpoint:
    if change in SCHEMES:
        return quantized(checkpoint, change)
    model = copy.deepcopy(checkpoint.model)
    for parameter in model.parameters():  # not the buffers: rotary frequencies stay in float32
        parameter.data = parameter.data.to(torch.bfloat16)
    return replace(checkpoint, name=f"{checkpoint.name} in {change}", model=model)


def _rounded_head(head: Head) -> Head:
    bias = None if head.bias is None else head.bias.to(torch.bfloat16)
    weight = head.weight.to(torch.bfloat16)
    return Head.from_parts(weight, bias, head.scale, head.softcap, head.valid, head.tied)


def _check(changes: Sequence[str], noise: Sequence[float]) -> None:
    for change in changes:
        if change not in CHANGES:
            raise UnembedError(f"change {change!r} is not one of {', '.join(CHANGES)}")
    for deviation in noise:
        if not 0 <= deviation < math.inf:
            raise UnembedError(
                f"noise {deviation} is no standard deviation: give logits, 0 or more"
            )
