from .baselines import MODEL_BASELINES as MODEL_BASELINES
from .baselines import score as score
from .index.route import route as route
from .mixing.record import Mixture as Mixture
from .ranking.records import Ranking as Ranking
from .transfer.judged import JudgedTransfer as JudgedTransfer
from .transfer.judged import judge_transfer as judge_transfer
from .transfer.records import Scores as Scores
from .transfer.records import Transfer as Transfer
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
    "JudgedTransfer",
    "Scores",
    "Transfer",
    "compared",
    "judge",
    "judge_transfer",
]
