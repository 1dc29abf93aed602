"""Every baseline by its name: how much a source promises a target."""

from __future__ import annotations

from importlib import import_module

import torch

from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.selection.scores import BASELINES, MODEL_BASELINES, SCORES
from unembed.signatures.samples import Samples, check_samples
from unembed.signatures.sketches.randomness import words


def score(name: str, target: Samples, source: Samples, head: Head, *, seed: int = 0) -> float:
    """How much a source promises a target by one of ``BASELINES`` or ``MODEL_BASELINES``.

    Larger is better. Equivalent to the function of that name in the file that ``SCORES`` gives:
    likeness of hidden states (``coordinates``), of gradients (``gradients``), of the Fisher's
    diagonals (``fisher_diagonals``) and of next tokens (``labels``). Of ``MODEL_BASELINES``
    (``models``, ``evidence``) ``source`` is the target's text as read by the source's model,
    position for position, and ``head`` that model's head. ``random`` is a number from 0 to 1 that
    depends on both names and the seed, and on nothing else.

    NaN only where a score is undefined: where all hidden states of a text are the same (``cka``,
    ``svcca``, ``kappa``, ``procrustes``, ``fa_cka_product``, ``h_score``) or 0 (``logme``); with
    fewer than four documents in a text, or fewer than four that differ (``cka_debiased``); with
    fewer than three coordinates that vary in both (``rsa``); and where a text's gradients are all 0
    (``fa_cka_kernel``, ``fa_cka_product``, ``task2vec``, ``fisher_diagonal``) or all the same
    (``fa_cka_centred``).

    Raises UnembedError for another name, samples that do not fit the head, for ``fa_cka_*`` more
    than 20,000 positions in all, and for ``MODEL_BASELINES`` two texts whose next tokens differ.
    Source: theory §11.
    """
    entry = SCORES.get(name)
    if entry is None or entry.reads == "signatures":
        known = ", ".join(BASELINES + MODEL_BASELINES)
        raise UnembedError(f"baseline {name!r} is not one of {known}")
    for text in (target, source):
        check_samples([text], head)
    if entry.reads == "models":
        _check_same_text(name, target, source)
    if entry.home is None:
        return _random(target.name, source.name, seed)
    home = import_module(f"unembed.selection.baselines.{entry.home}")
    return float(getattr(home, name)(target, source, head))


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
