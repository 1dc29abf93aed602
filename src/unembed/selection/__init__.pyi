from .baselines import MODEL_BASELINES as MODEL_BASELINES
from .baselines import score as score
from .index.route import route as route
from .mixing.record import Mixture as Mixture
from .ranking.records import Ranking as Ranking
from .transfer.records import Scores as Scores
from .transfer.records import Transfer as Transfer
from .transfer.run import keep_transfer as keep_transfer
from .transfer.verdicts import Difference as Difference
from .transfer.verdicts import compared as compared
from .transfer.verdicts import judge as judge

__all__ = [
    # Results
    "Mixture",
    "Ranking",
    # Scores of a source for a target by name, and where a prompt belongs
    "MODEL_BASELINES",
    "route",
    "score",
    # What scores were worth: measured transfer
    "Difference",
    "Scores",
    "Transfer",
    "compared",
    "judge",
    "keep_transfer",
]
