"""Every baseline by name: how much a source promises a target."""

from __future__ import annotations

import torch

from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.selection.baselines import coordinates, gradients, labels, models
from unembed.selection.baselines.evidence import logme
from unembed.selection.baselines.fisher_diagonals import fisher_diagonal, task2vec
from unembed.signatures.samples import Samples, check_samples
from unembed.signatures.sketches.randomness import words

BASELINES: tuple[str, ...] = (
    "cka",
    "cka_debiased",
    "rsa",
    "svcca",
    "procrustes",
    "fa_cka_product",
    "fa_cka_kernel",
    "fa_cka_centred",
    "task2vec",
    "fisher_diagonal",
    "unigram",
    "unigram_loss",
    "random",
)
"""Scores of two texts read by one model."""
MODEL_BASELINES: tuple[str, ...] = ("h_score", "logme", "leep", "loss")
"""Scores of the target's text as each source's model reads it."""


def score(name: str, target: Samples, source: Samples, head: Head, *, seed: int = 0) -> float:
    """How much a source promises a target by one of ``BASELINES`` or ``MODEL_BASELINES``.

    Larger is better. The names and their formulas:

    - ``cka``, ``cka_debiased``, ``rsa``, ``svcca``, ``procrustes``: likeness of hidden states, as
      rows over shared coordinates (``coordinates``);
    - ``fa_cka_product``, ``fa_cka_kernel``, ``fa_cka_centred``: of gradients (``gradients``);
    - ``task2vec``, ``fisher_diagonal``: of the Fisher's diagonals (``fisher_diagonals``);
    - ``unigram``, ``unigram_loss``: of next tokens (``labels``);
    - ``h_score``, ``leep``, ``loss`` (``models``) and ``logme`` (``evidence``): ``source`` is then
      the target's text as read by the source's model, position for position, and ``head`` that
      model's head;
    - ``random``: a number from 0 to 1 that depends on both names and the seed, and on nothing else.

    NaN only where a score is undefined: where all hidden states of a text are the same (``cka``,
    ``svcca``, ``procrustes``, ``fa_cka_product``, ``h_score``) or 0 (``logme``); with fewer than
    four documents in a text, or fewer than four that differ (``cka_debiased``); with fewer than
    three coordinates that vary in both (``rsa``); and where a text's gradients are all 0
    (``fa_cka_kernel``, ``fa_cka_product``, ``task2vec``, ``fisher_diagonal``) or all the same
    (``fa_cka_centred``).

    Raises UnembedError for another name, samples that do not fit the head, for ``fa_cka_*`` more
    than 20,000 positions in all, and for ``MODEL_BASELINES`` two texts whose next tokens differ.
    Source: theory §11.
    """
    if name not in BASELINES + MODEL_BASELINES:
        known = ", ".join(BASELINES + MODEL_BASELINES)
        raise UnembedError(f"baseline {name!r} is not one of {known}")
    for text in (target, source):
        check_samples([text], head)
    if name in MODEL_BASELINES:
        _check_same_text(name, target, source)
    match name:
        case "cka":
            return coordinates.cka(target, source)
        case "cka_debiased":
            return coordinates.cka_debiased(target, source)
        case "rsa":
            return coordinates.rsa(target, source)
        case "svcca":
            return coordinates.svcca(target, source)
        case "procrustes":
            return coordinates.procrustes(target, source)
        case "fa_cka_product":
            return gradients.fa_cka_product(target, source, head)
        case "fa_cka_kernel":
            return gradients.fa_cka_kernel(target, source, head)
        case "fa_cka_centred":
            return gradients.fa_cka_centred(target, source, head)
        case "task2vec":
            return task2vec(target, source, head)
        case "fisher_diagonal":
            return fisher_diagonal(target, source, head)
        case "unigram":
            return labels.unigram(target, source, head)
        case "unigram_loss":
            return labels.unigram_loss(target, source, head)
        case "h_score":
            return models.h_score(source)
        case "logme":
            return logme(source)
        case "leep":
            return models.leep(source, head)
        case "loss":
            return models.loss(source, head)
        case _:
            return _random(target.name, source.name, seed)


def _random(target: str, source: str, seed: int) -> float:
    word = int(words(seed, f"random baseline of {source!r} for {target!r}", 1)[0])
    return (word >> 11) / 2**53


def _check_same_text(name: str, target: Samples, source: Samples) -> None:
    one, other = target.targets.cpu().long(), source.targets.cpu().long()
    if not torch.equal(one, other):
        where = "lengths" if len(one) != len(other) else "next tokens"
        raise UnembedError(
            f"{name} compares models on one text, but task {target.name!r} and {source.name!r} "
            f"have other {where}: read the target's text with the source's model"
        )
