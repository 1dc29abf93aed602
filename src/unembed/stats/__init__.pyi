from .rank_correlation import standard_ranks as standard_ranks
from .several import mean_estimate as mean_estimate
from .student import student_t as student_t

__all__ = ["mean_estimate", "standard_ranks", "student_t"]
