from .audit.closest import ClosestCall as ClosestCall
from .audit.gap import GapFit as GapFit
from .audit.gap import fit_gap as fit_gap
from .audit.run import AuditOptions as AuditOptions
from .audit.summary import AuditSummary as AuditSummary
from .benchmarks.compare import compare_logs as compare_logs
from .benchmarks.record import ComparedBenchmarks as ComparedBenchmarks
from .comparison.flip_list import Flip as Flip
from .comparison.flip_list import FlipPair as FlipPair
from .comparison.positions import PositionFilter as PositionFilter
from .comparison.summary import ComparisonSummary as ComparisonSummary
from .flips_of_rounding import RoundingFlips as RoundingFlips
from .flips_of_rounding import rounding_flips as rounding_flips
from .ladder.summary import LadderSummary as LadderSummary
from .ladder.variants import Variant as Variant
from .layers.compare import LayersComparison as LayersComparison
from .layers.compare import compare_layers as compare_layers
from .layers.layers import Layers as Layers
from .layers.options import LayersOptions as LayersOptions
from .layers.passage import Passage as Passage
from .layers.summary import LayersSummary as LayersSummary
from .slices.decision import DecisionSlice as DecisionSlice
from .slices.slice import Slice as Slice
from .slices.slice import slice_between as slice_between
from .slices.slice import slice_of as slice_of
from .slices.slice import slice_of_path as slice_of_path

__all__ = [
    # Options and results
    "AuditOptions",
    "AuditSummary",
    "ComparisonSummary",
    "LadderSummary",
    "Layers",
    "LayersComparison",
    "LayersOptions",
    "LayersSummary",
    "PositionFilter",
    # The models of a ladder
    "Variant",
    # Decisions quoted from the text
    "ClosestCall",
    "Flip",
    "FlipPair",
    # What rounding flips in a model, before and after its weights were changed
    "RoundingFlips",
    "rounding_flips",
    # The cells around a decision
    "DecisionSlice",
    "Slice",
    "slice_between",
    "slice_of",
    "slice_of_path",
    # What every depth would have said of a passage
    "Passage",
    # Two runs of layers, depth by depth
    "compare_layers",
    # Benchmark logs of lm-evaluation-harness
    "ComparedBenchmarks",
    "compare_logs",
    # The expressibility gap of any margins
    "GapFit",
    "fit_gap",
]
