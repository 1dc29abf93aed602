"""What sources can be ranked by: every score by its name, its meaning and what it reads.

The one list of scores: the command line's choices and help, the checks of rankings, mixtures and
indexes, and the pages all read it. A new baseline is a function ``(target, source, head) -> float``
in a file of ``baselines`` and an entry here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_HIDDEN_STATES = (
    "It compares the hidden states of the two texts alone: which tokens follow them plays no part."
)
_SOURCE_MODEL = "It takes a model that was trained on each source already."
_NEAREST = "Of all mixtures this one comes nearest to the target’s."


@dataclass(frozen=True)
class Score:
    """A score of a source for a target; larger is better.

    ``label`` is its name on a page, ``meaning`` what it asks, in a sentence or two. It ``reads``
    signatures, or samples of both texts, or the target's samples by a model of each source; then
    ``home`` is the file of ``baselines`` that computes it (None: ``by_name`` itself). Of a
    signature it takes these ``sums``. ``signed``: below 0 it speaks against a source. ``unit`` is
    empty for a plain number. ``matched`` says what a mixture by this score has in common with its
    target, and is empty where no mixture can be found by it.
    """

    name: str
    label: str
    meaning: str
    reads: Literal["signatures", "samples", "models"]
    home: str | None = None
    sums: tuple[str, ...] = ()
    signed: bool = False
    unit: str = ""
    matched: str = ""

    @property
    def cosine(self) -> bool:
        """Whether it is a cosine of two signatures, or a product of such."""
        return self.reads == "signatures" and not self.unit


RANDOM = "random"
"""The control: it has no error, and no chance to be the best that would mean anything."""

_TABLE = (
    Score(
        "joint",
        "joint alignment",
        "Do source and target push the output head along the same directions? 1: the same ones. "
        "0: none in common. Which way along them does not count.",
        "signatures",
        sums=("joint",),
        matched="The directions along which a text pushes the output head, whichever way, and how "
        f"strongly. {_NEAREST}",
    ),
    Score(
        "activation",
        "activation alignment",
        "The input side alone: does the head read alike hidden states in both?",
        "signatures",
        sums=("activation",),
        matched="The hidden states that the head reads, and not which tokens follow them. "
        f"{_NEAREST}",
    ),
    Score(
        "error",
        "error alignment",
        "The output side alone: are alike tokens predicted too much or too little in both?",
        "signatures",
        sums=("error",),
        matched="Which tokens are predicted too much or too little, and not in which states. "
        f"{_NEAREST}",
    ),
    Score(
        "proxy",
        "activation × error",
        "The product of both sides, which is the joint if errors had nothing to do with where "
        "they are made.",
        "signatures",
        sums=("activation", "error"),
    ),
    Score(
        "gradient",
        "gradient cosine",
        "The cosine of mean gradients, with its sign. Above 0 training on the source pulls "
        "the head the target’s way, below 0 against it.",
        "signatures",
        sums=("first",),
        signed=True,
        matched=f"The mean gradient of the output head, with its sign. {_NEAREST}",
    ),
    Score(
        "step",
        "first-order gain",
        "How far the target’s loss falls, to first order, for each unit of learning rate when "
        "one step is taken on the source. Below 0 it rises.",
        "signatures",
        sums=("first",),
        signed=True,
        unit="nats a token for each unit of learning rate",
    ),
    Score(
        "cka", "CKA", f"Linear CKA of second moments. {_HIDDEN_STATES}", "samples", "coordinates"
    ),
    Score(
        "cka_debiased",
        "CKA, debiased",
        f"Linear CKA without pairs of one document. {_HIDDEN_STATES}",
        "samples",
        "coordinates",
    ),
    Score(
        "rsa",
        "RSA",
        f"Correlation of the two matrices of correlations. {_HIDDEN_STATES}",
        "samples",
        "coordinates",
    ),
    Score(
        "svcca",
        "SVCCA",
        f"Mean canonical correlation of the leading subspaces. {_HIDDEN_STATES}",
        "samples",
        "coordinates",
    ),
    Score(
        "kappa",
        "1 − κ",
        "Root mean square of what the canonical correlations of the leading subspaces lack of 1, "
        f"taken from 1. {_HIDDEN_STATES}",
        "samples",
        "coordinates",
    ),
    Score(
        "procrustes",
        "Procrustes similarity",
        f"Overlap of the two covariances’ square roots. {_HIDDEN_STATES}",
        "samples",
        "coordinates",
    ),
    Score(
        "fa_cka_product",
        "CKA × error alignment",
        "CKA of the hidden states times the alignment of errors.",
        "samples",
        "gradients",
    ),
    Score(
        "fa_cka_kernel",
        "cosine of product kernels",
        "The cosine of the product of both kernels: the joint alignment, exactly.",
        "samples",
        "gradients",
    ),
    Score(
        "fa_cka_centred",
        "CKA of gradients",
        "The joint alignment after the mean gradients are taken out.",
        "samples",
        "gradients",
    ),
    Score(
        "task2vec",
        "Task2Vec",
        "Distance of the head’s Fisher information, row by row.",
        "samples",
        "fisher_diagonals",
    ),
    Score(
        "fisher_diagonal",
        "cosine of Fisher diagonals",
        "The cosine of the head Fishers’ diagonals: directions that mix weights play no part.",
        "samples",
        "fisher_diagonals",
    ),
    Score(
        "unigram",
        "cosine of token counts",
        "The cosine of how often each token follows: no model is needed.",
        "samples",
        "labels",
    ),
    Score(
        "unigram_loss",
        "unigram likelihood",
        "How likely the target’s tokens are by the source’s counts, in nats, larger "
        "being likelier.",
        "samples",
        "labels",
        unit="nats a token",
    ),
    Score(
        RANDOM,
        "random numbers",
        "A random number for each source: what chance would choose.",
        "samples",
    ),
    Score(
        "h_score",
        "H-score",
        f"How well the target’s tokens part the source’s features. {_SOURCE_MODEL}",
        "models",
        "models",
    ),
    Score(
        "logme",
        "LogME",
        f"Evidence of the target’s tokens given the source’s features. {_SOURCE_MODEL}",
        "models",
        "evidence",
        unit="nats a token",
    ),
    Score(
        "leep",
        "LEEP",
        f"Likelihood of the target’s tokens given the source’s predictions. {_SOURCE_MODEL}",
        "models",
        "models",
        unit="nats a token",
    ),
    Score(
        "loss",
        "target’s loss under the source’s model",
        f"Minus the loss of the target, nothing trained further. {_SOURCE_MODEL}",
        "models",
        "models",
        unit="nats a token",
    ),
)

SCORES = {score.name: score for score in _TABLE}
SIGNATURE_SCORES = tuple(score.name for score in _TABLE if score.reads == "signatures")
"""Scores of two signatures."""
BASELINES = tuple(score.name for score in _TABLE if score.reads == "samples")
"""Scores of two texts read by one model."""
MODEL_BASELINES = tuple(score.name for score in _TABLE if score.reads == "models")
"""Scores of the target's text as each source's model reads it."""
FEATURES = {score.name: score.sums[0] for score in _TABLE if score.matched}
"""The one feature whose cosine a score is: mixtures and indexes are made of such features."""


def named(name: str) -> Score:
    """A score by its name; one that is not in the list is called by its name."""
    meaning = "The larger the score, the more a source promises."
    return SCORES.get(name) or Score(name, name.replace("_", " "), meaning, "samples")
