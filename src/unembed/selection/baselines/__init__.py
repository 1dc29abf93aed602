"""What is compared with signatures: known measures of how alike two tasks are, and of transfer.

``score`` gives any of them by name. ``linear_cka``, ``debiased_cka``, ``rsa``, ``svcca``,
``procrustes`` and ``kappa`` compare two representations of the same positions.
"""

from unembed.selection.baselines.by_name import score
from unembed.selection.baselines.representation import linear_cka, procrustes, rsa, svcca
from unembed.selection.baselines.unbiased import debiased_cka
from unembed.selection.baselines.whitening import kappa
from unembed.selection.scores import BASELINES, MODEL_BASELINES

__all__ = [
    "BASELINES",
    "MODEL_BASELINES",
    "debiased_cka",
    "kappa",
    "linear_cka",
    "procrustes",
    "rsa",
    "score",
    "svcca",
]
