"""The geometry of a language model's output head: measure, compare, move and foresee decisions.

The names below are loaded when first used, so that ``import unembed`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unembed.decisions.audit.audit import Audit as Audit
    from unembed.decisions.audit.audit import audit as audit
    from unembed.decisions.audit.gap import GapFit as GapFit
    from unembed.decisions.audit.gap import fit_gap as fit_gap
    from unembed.decisions.audit.run import AuditOptions as AuditOptions
    from unembed.decisions.audit.summary import AuditSummary as AuditSummary
    from unembed.decisions.comparison.compare import Comparison as Comparison
    from unembed.decisions.comparison.compare import compare as compare
    from unembed.decisions.comparison.positions import Only as Only
    from unembed.decisions.comparison.summary import ComparisonSummary as ComparisonSummary
    from unembed.errors import UnembedError as UnembedError
    from unembed.head.head import Head as Head
    from unembed.head.loss import HeadLoss as HeadLoss
    from unembed.head.loss import head_loss as head_loss
    from unembed.models.checkpoint import Checkpoint as Checkpoint
    from unembed.models.checkpoint import load as load
    from unembed.runs.provenance import Provenance as Provenance
    from unembed.selection.index.index import Index as Index
    from unembed.selection.mixing.mixture import mix as mix
    from unembed.selection.mixing.record import Mixture as Mixture
    from unembed.selection.ranking.rank import rank as rank
    from unembed.selection.ranking.records import Ranking as Ranking
    from unembed.signatures.alignment.align import align as align
    from unembed.signatures.alignment.records import Alignments as Alignments
    from unembed.signatures.alignment.texts import align_texts as align_texts
    from unembed.signatures.reading.run import sketch as sketch
    from unembed.signatures.reading.sketcher import SketchOptions as SketchOptions
    from unembed.signatures.signature import Signature as Signature
    from unembed.stats.estimate import Estimate as Estimate
    from unembed.text.corpus import Corpus as Corpus
    from unembed.training.benchmarks.pair import Benchmarks as Benchmarks
    from unembed.training.doses.dose import Doses as Doses
    from unembed.training.doses.dose import Grid as Grid
    from unembed.training.doses.dose import dose as dose
    from unembed.training.recipe.lora import Lora as Lora
    from unembed.training.recipe.objectives import Objective as Objective
    from unembed.training.recipe.protection import Protection as Protection
    from unembed.training.recipe.recipe import Budget as Budget
    from unembed.training.recipe.recipe import Recipe as Recipe
    from unembed.training.recipe.weighting import Weighting as Weighting
    from unembed.training.run.train import Refinement as Refinement
    from unembed.training.run.train import refine as refine

_HOMES = {
    "Alignments": "signatures.alignment.records",
    "Audit": "decisions.audit.audit",
    "AuditOptions": "decisions.audit.run",
    "AuditSummary": "decisions.audit.summary",
    "Benchmarks": "training.benchmarks.pair",
    "Budget": "training.recipe.recipe",
    "Checkpoint": "models.checkpoint",
    "Comparison": "decisions.comparison.compare",
    "ComparisonSummary": "decisions.comparison.summary",
    "Corpus": "text.corpus",
    "Doses": "training.doses.dose",
    "Estimate": "stats.estimate",
    "GapFit": "decisions.audit.gap",
    "Grid": "training.doses.dose",
    "Head": "head.head",
    "HeadLoss": "head.loss",
    "Index": "selection.index.index",
    "Lora": "training.recipe.lora",
    "Mixture": "selection.mixing.record",
    "Objective": "training.recipe.objectives",
    "Only": "decisions.comparison.positions",
    "Protection": "training.recipe.protection",
    "Provenance": "runs.provenance",
    "Ranking": "selection.ranking.records",
    "Recipe": "training.recipe.recipe",
    "Refinement": "training.run.train",
    "Signature": "signatures.signature",
    "SketchOptions": "signatures.reading.sketcher",
    "UnembedError": "errors",
    "Weighting": "training.recipe.weighting",
    "align": "signatures.alignment.align",
    "align_texts": "signatures.alignment.texts",
    "audit": "decisions.audit.audit",
    "compare": "decisions.comparison.compare",
    "dose": "training.doses.dose",
    "fit_gap": "decisions.audit.gap",
    "head_loss": "head.loss",
    "load": "models.checkpoint",
    "mix": "selection.mixing.mixture",
    "rank": "selection.ranking.rank",
    "refine": "training.run.train",
    "sketch": "signatures.reading.run",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unembed' has no attribute {name!r}")
    value = getattr(import_module(f"unembed.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
