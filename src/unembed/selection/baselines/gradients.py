"""Three readings of FA-CKA, a name that is published without a formula.

``g = e ⊗ a`` is the head's gradient at a position, ``F = mean g gᵀ``, ``Γ = mean e eᵀ``. All pairs
of positions count, so that norms have the noise of few positions (``exact_alignments`` leaves it
out). Each is symmetric, 1 for a text with itself, and the same when the hidden states of both texts
and the head are rotated together, or the hidden states of both are scaled at fixed errors.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.selection.baselines.coordinates import cka
from unembed.selection.baselines.cosine import ratio
from unembed.signatures.alignment.exact import MOST_KERNELS, MOST_POSITIONS
from unembed.signatures.alignment.grams import error_blocks, logsumexp
from unembed.signatures.samples import Samples

ROUNDING = 1e-24
"""A share of a squared norm that cannot be told from 0."""

Grams = tuple[
    Float[Tensor, "source target"], Float[Tensor, "source source"], Float[Tensor, "target target"]
]
"""Inner products between the two texts, and within each."""


def fa_cka_product(target: Samples, source: Samples, head: Head) -> float:
    """``cka · S(Γ)``, with ``S(Γ) = ⟨Γ_s, Γ_t⟩ / (‖Γ_s‖ ‖Γ_t‖)`` of uncentred errors (theory §11).

    NaN where all states of a text are the same, and where all errors are 0.
    """
    return cka(target, source, head) * _cosine(error_grams(target, source, head))


def fa_cka_kernel(target: Samples, source: Samples, head: Head) -> float:
    """The cosine of mean embeddings under the product kernel ``(a·a')² (e·e')²`` (theory §11).

    Of unpaired texts it is the joint alignment ``⟨F_s, F_t⟩ / (‖F_s‖ ‖F_t‖)`` itself, from all
    pairs: here for the sake of its name. NaN where all gradients of a text are 0.
    """
    return _cosine(_gradient_grams(target, source, head))


def fa_cka_centred(target: Samples, source: Samples, head: Head) -> float:
    """The cosine of the gradients' covariances ``F - ḡ ḡᵀ``: CKA of the gradients (theory §11).

    ``⟨F_s - ḡ_s ḡ_sᵀ, F_t - ḡ_t ḡ_tᵀ⟩`` is the squared norm of the Gram matrix of centred
    gradients over the number of pairs. NaN where all gradients of a text are the same, to rounding.
    """
    grams = _gradient_grams(target, source, head)
    product, *own = (float(_centred(gram).square().mean()) for gram in grams)
    whole = [ROUNDING * float(gram.square().mean()) for gram in grams[1:]]
    left, right = (x if x > least else 0.0 for x, least in zip(own, whole, strict=True))
    return ratio(product, left, right)


@torch.no_grad()
def error_grams(target: Samples, source: Samples, head: Head) -> Grams:
    """``e·e'`` in float64, from blocks of the vocabulary.

    Costs ``n² vocab + 2 n vocab dim`` multiplications for n positions in all, and memory for n².
    Raises UnembedError for more than 20,000 positions in all.
    """
    n, rows = len(source.document) + len(target.document), len(source.document)
    if n > MOST_POSITIONS:
        raise UnembedError(
            f"{n:,} positions in all are more than the {MOST_POSITIONS:,} whose pairs can be held: "
            "give fewer positions of each text"
        )
    device, block = head.weight.device, max(1, MOST_KERNELS // n)
    hidden = torch.cat([x.hidden.to(device).double() for x in (source, target)])
    targets = torch.cat([x.targets.to(device).long() for x in (source, target)])
    grams = [
        hidden.new_zeros(a, b) for a, b in ((rows, n - rows), (rows, rows), (n - rows, n - rows))
    ]
    normaliser = logsumexp(hidden, head, block)
    for errors in error_blocks(hidden, targets, head, normaliser, block):
        x, y = errors[:rows], errors[rows:]
        for gram, left, right in zip(grams, (x, x, y), (y, x, y), strict=True):
            gram.addmm_(left, right.T)
    return grams[0], grams[1], grams[2]


@torch.no_grad()
def _gradient_grams(target: Samples, source: Samples, head: Head) -> Grams:
    grams = error_grams(target, source, head)
    x, y = (text.hidden.to(head.weight.device).double() for text in (source, target))
    for gram, left, right in zip(grams, (x, x, y), (y, x, y), strict=True):
        gram.mul_(left @ right.T)
    return grams


def _centred(gram: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    gram = gram - gram.mean(0)
    return gram - gram.mean(1, keepdim=True)


def _cosine(grams: Grams) -> float:
    """Of the mean outer products of what the Gram matrices are of: means of squares."""
    return ratio(*(float(gram.square().mean()) for gram in grams))
