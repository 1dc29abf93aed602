from .audit.gap import GapFit as GapFit
from .audit.gap import fit_gap as fit_gap
from .audit.run import AuditOptions as AuditOptions
from .audit.summary import AuditSummary as AuditSummary
from .comparison.positions import PositionFilter as PositionFilter
from .comparison.summary import ComparisonSummary as ComparisonSummary

__all__ = [
    # Options and results
    "AuditOptions",
    "AuditSummary",
    "ComparisonSummary",
    "PositionFilter",
    # The expressibility gap of any margins
    "GapFit",
    "fit_gap",
]
