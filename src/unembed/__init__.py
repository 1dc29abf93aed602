"""The geometry of a language model's output head: measure, compare, move and foresee decisions.

The names below are loaded when first used, so that ``import unembed`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unembed.cells.audit import Audit as Audit
    from unembed.cells.audit import audit as audit
    from unembed.cells.compare import Comparison as Comparison
    from unembed.cells.compare import compare as compare
    from unembed.cells.comparison import ComparisonSummary as ComparisonSummary
    from unembed.cells.gap import GapFit as GapFit
    from unembed.cells.gap import fit_gap as fit_gap
    from unembed.cells.only import Only as Only
    from unembed.cells.run import AuditOptions as AuditOptions
    from unembed.cells.summary import AuditSummary as AuditSummary
    from unembed.choice.index.index import Index as Index
    from unembed.choice.mixing.mixture import mix as mix
    from unembed.choice.mixing.record import Mixture as Mixture
    from unembed.choice.ranking import rank as rank
    from unembed.choice.rankings import Ranking as Ranking
    from unembed.corpus import Corpus as Corpus
    from unembed.errors import UnembedError as UnembedError
    from unembed.estimate import Estimate as Estimate
    from unembed.head import Head as Head
    from unembed.loss import HeadLoss as HeadLoss
    from unembed.loss import head_loss as head_loss
    from unembed.models import Checkpoint as Checkpoint
    from unembed.models import load as load
    from unembed.provenance import Provenance as Provenance
    from unembed.refine.benchmark_pair import Benchmarks as Benchmarks
    from unembed.refine.dose import Doses as Doses
    from unembed.refine.dose import Grid as Grid
    from unembed.refine.dose import dose as dose
    from unembed.refine.lora import Lora as Lora
    from unembed.refine.objectives import Objective as Objective
    from unembed.refine.protection import Protection as Protection
    from unembed.refine.recipe import Budget as Budget
    from unembed.refine.recipe import Recipe as Recipe
    from unembed.refine.train import Refinement as Refinement
    from unembed.refine.train import refine as refine
    from unembed.refine.weighting import Weighting as Weighting
    from unembed.updates.alignment import align as align
    from unembed.updates.alignments import Alignments as Alignments
    from unembed.updates.run import sketch as sketch
    from unembed.updates.signature import Signature as Signature
    from unembed.updates.sketcher import SketchOptions as SketchOptions
    from unembed.updates.texts import align_texts as align_texts

_HOMES = {
    "Alignments": "updates.alignments",
    "Audit": "cells.audit",
    "AuditOptions": "cells.run",
    "AuditSummary": "cells.summary",
    "Benchmarks": "refine.benchmark_pair",
    "Budget": "refine.recipe",
    "Checkpoint": "models",
    "Comparison": "cells.compare",
    "ComparisonSummary": "cells.comparison",
    "Corpus": "corpus",
    "Doses": "refine.dose",
    "Estimate": "estimate",
    "GapFit": "cells.gap",
    "Grid": "refine.dose",
    "Head": "head",
    "HeadLoss": "loss",
    "Index": "choice.index.index",
    "Lora": "refine.lora",
    "Mixture": "choice.mixing.record",
    "Objective": "refine.objectives",
    "Only": "cells.only",
    "Protection": "refine.protection",
    "Provenance": "provenance",
    "Ranking": "choice.rankings",
    "Recipe": "refine.recipe",
    "Refinement": "refine.train",
    "Signature": "updates.signature",
    "SketchOptions": "updates.sketcher",
    "UnembedError": "errors",
    "Weighting": "refine.weighting",
    "align": "updates.alignment",
    "align_texts": "updates.texts",
    "audit": "cells.audit",
    "compare": "cells.compare",
    "dose": "refine.dose",
    "fit_gap": "cells.gap",
    "head_loss": "loss",
    "load": "models",
    "mix": "choice.mixing.mixture",
    "rank": "choice.ranking",
    "refine": "refine.train",
    "sketch": "updates.run",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unembed' has no attribute {name!r}")
    if name == "refine":  # a package of that name is there too, and can be called
        return import_module("unembed.refine")
    value = getattr(import_module(f"unembed.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
