"""What each score asks, for a reader who has not met it."""

from __future__ import annotations

NAMES = {
    "joint": "joint alignment",
    "activation": "activation alignment",
    "error": "error alignment",
    "proxy": "activation × error",
    "gradient": "gradient cosine",
    "step": "first-order gain",
    "random": "random numbers",
    "cka": "CKA",
    "cka_debiased": "CKA, debiased",
    "rsa": "RSA",
    "svcca": "SVCCA",
    "procrustes": "Procrustes similarity",
    "fa_cka_product": "CKA × error alignment",
    "fa_cka_kernel": "cosine of product kernels",
    "fa_cka_centred": "CKA of gradients",
    "unigram": "cosine of token counts",
    "unigram_loss": "unigram likelihood",
    "task2vec": "Task2Vec",
    "fisher_diagonal": "cosine of Fisher diagonals",
    "h_score": "H-score",
    "logme": "LogME",
    "leep": "LEEP",
    "loss": "target’s loss under the source’s model",
}
"""What a score is called on a page."""

_HIDDEN_STATES = (
    "It compares the hidden states of the two texts alone: which tokens follow them plays no part."
)
_SOURCE_MODEL = "It takes a model that was trained on each source already."

MEANINGS = {
    "joint": "Do source and target push the output head along the same directions? 1: the same "
    "ones. 0: none in common. Which way along them does not count.",
    "activation": "The input side alone: does the head read alike hidden states in both?",
    "error": "The output side alone: are alike tokens predicted too much or too little in both?",
    "proxy": "The product of both sides, which is the joint if errors had nothing to do with where "
    "they are made.",
    "gradient": "The cosine of mean gradients, with its sign. Above 0 training on the source pulls "
    "the head the target’s way, below 0 against it.",
    "step": "How far the target’s loss falls, to first order, for each unit of learning rate when "
    "one step is taken on the source. Below 0 it rises.",
    "random": "A random number for each source: what chance would choose.",
    "cka": f"Linear CKA of second moments. {_HIDDEN_STATES}",
    "cka_debiased": f"Linear CKA without pairs of one document. {_HIDDEN_STATES}",
    "rsa": f"Correlation of the two matrices of correlations. {_HIDDEN_STATES}",
    "svcca": f"Mean canonical correlation of the leading subspaces. {_HIDDEN_STATES}",
    "procrustes": f"Overlap of the two covariances’ square roots. {_HIDDEN_STATES}",
    "fa_cka_product": "CKA of the hidden states times the alignment of errors.",
    "fa_cka_kernel": "The cosine of the product of both kernels: the joint alignment, exactly.",
    "fa_cka_centred": "The joint alignment after the mean gradients are taken out.",
    "unigram": "The cosine of how often each token follows: no model is needed.",
    "unigram_loss": "How likely the target’s tokens are by the source’s counts, in nats, larger "
    "being likelier.",
    "task2vec": "Distance of the head’s Fisher information, row by row.",
    "fisher_diagonal": "The cosine of the head Fishers’ diagonals: directions that mix weights "
    "play no part.",
    "h_score": f"How well the target’s tokens part the source’s features. {_SOURCE_MODEL}",
    "logme": f"Evidence of the target’s tokens given the source’s features. {_SOURCE_MODEL}",
    "leep": f"Likelihood of the target’s tokens given the source’s predictions. {_SOURCE_MODEL}",
    "loss": f"Minus the loss of the target, nothing trained further. {_SOURCE_MODEL}",
}
"""What a score asks, in a sentence or two."""

SIGNED = frozenset({"gradient", "step"})
"""Scores below 0 of which speak against a source."""


def name_of(score: str) -> str:
    """What a score is called; one that is not known is called what it is."""
    return NAMES.get(score, score.replace("_", " "))


def meaning_of(score: str) -> str:
    """What a score asks."""
    return MEANINGS.get(score, "The larger the score, the more a source promises.")
