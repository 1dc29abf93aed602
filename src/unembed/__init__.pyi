from . import decisions as decisions
from . import demo as demo
from . import head as head
from . import models as models
from . import runs as runs
from . import selection as selection
from . import signatures as signatures
from . import text as text
from . import training as training
from .decisions.audit.audit import Audit as Audit
from .decisions.audit.audit import audit as audit
from .decisions.comparison.compare import Comparison as Comparison
from .decisions.comparison.compare import compare as compare
from .decisions.ladder.ladder import Ladder as Ladder
from .decisions.ladder.ladder import ladder as ladder
from .decisions.layers.layers import layers as layers
from .errors import UnembedError as UnembedError
from .head.head import Head as Head
from .head.loss import HeadLoss as HeadLoss
from .head.loss import head_loss as head_loss
from .models.checkpoint import Checkpoint as Checkpoint
from .models.checkpoint import load as load
from .selection.index.index import Index as Index
from .selection.mixing.mixture import mix as mix
from .selection.ranking.rank import rank as rank
from .signatures.alignment.align import align as align
from .signatures.reading.run import sketch as sketch
from .signatures.reading.sketcher import SketchOptions as SketchOptions
from .signatures.signature import Signature as Signature
from .stats.estimate import Estimate as Estimate
from .text.corpus import Corpus as Corpus
from .training.doses.dose import Doses as Doses
from .training.doses.dose import dose as dose
from .training.doses.grid import Grid as Grid
from .training.recipe.recipe import Recipe as Recipe
from .training.run.refinement import Refinement as Refinement
from .training.run.refinement import refine as refine

__all__ = [
    # What everything starts from
    "Checkpoint",
    "Corpus",
    "load",
    # Look at a model's decisions, and at how they form
    "Audit",
    "audit",
    "layers",
    # Compare two models, or a base and several variants
    "Comparison",
    "Ladder",
    "compare",
    "ladder",
    # Change a model
    "Doses",
    "Grid",
    "Recipe",
    "Refinement",
    "dose",
    "refine",
    # Choose data
    "Index",
    "Signature",
    "SketchOptions",
    "align",
    "mix",
    "rank",
    "sketch",
    # The output head itself, for loops of your own
    "Head",
    "HeadLoss",
    "head_loss",
    # What numbers and refusals are
    "Estimate",
    "UnembedError",
    # The rest, by what it is about
    "decisions",
    "demo",
    "head",
    "models",
    "runs",
    "selection",
    "signatures",
    "text",
    "training",
]
