from .mixing.record import Mixture as Mixture
from .ranking.records import Ranking as Ranking

__all__ = [
    # Results
    "Mixture",
    "Ranking",
]
