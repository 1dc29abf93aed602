"""Likeness of two texts' representations, which are not paired: over shared coordinates.

Source and target are different texts, so no position of one belongs to one of the other. What they
share is the model, and so the coordinates of its hidden states. A text is its matrix of positions
by coordinates, centred over the positions; here the coordinates are the inputs that are paired, and
each text describes a coordinate by its values at the text's own positions. The measures of
``representation`` then apply to the transposed matrices, whose ``x xᵀ`` is n times the text's
covariance C. So they compare covariances, and rotating the coordinates of both texts together
changes nothing (but for RSA, which is about the coordinates themselves); nor does a scale or a
shift of either text. All are symmetric.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from unembed.head.head import Head
from unembed.selection.baselines import representation, whitening
from unembed.selection.baselines.unbiased import unpaired_cka
from unembed.signatures.samples import Samples


def cka(target: Samples, source: Samples, head: Head) -> float:
    """Linear CKA, plug-in: ``⟨C_s, C_t⟩ / (‖C_s‖ ‖C_t‖)`` (Kornblith et al. 2019; theory §11).

    Few positions lower it, as both norms have the noise of their covariance, which the product of
    two texts has not. NaN where all states of a text are the same.
    """
    return representation.linear_cka(_described(source), _described(target), centre=False)


def cka_debiased(target: Samples, source: Samples, head: Head) -> float:
    """``⟨C_s, C_t⟩ / (‖C_s‖ ‖C_t‖)`` with each product a U-statistic over different documents.

    See ``unpaired_cka``. A text with itself has 1; two texts may pass 1. NaN with fewer than four
    documents in either. Source: theory §11.
    """
    device = source.hidden.device
    x, y = source.hidden, target.hidden.to(device)
    return unpaired_cka(x, y, source.document, target.document)


def rsa(target: Samples, source: Samples, head: Head) -> float:
    """The rank correlation of the off-diagonal entries of the two correlation matrices.

    Spearman's, as published (Kriegeskorte et al. 2008). NaN with fewer than three coordinates that
    vary in both texts. Source: theory §11.
    """
    return representation.rsa(_described(source), _described(target))


def svcca(target: Samples, source: Samples, head: Head) -> float:
    """The mean singular value of ``U_sᵀ U_t``, of the top principal subspaces (theory §11).

    Each is the least that holds 99 % of its text's variance, and there are as many values as the
    smaller has dimensions (after Raghu et al. 2017). NaN where all states of a text are the same.
    """
    return representation.svcca(_described(source), _described(target), centre=False)


def procrustes(target: Samples, source: Samples, head: Head) -> float:
    """``‖C_s^½ C_t^½‖_* / √(tr C_s tr C_t)``: Procrustes similarity, Bures' fidelity (theory §11).

    NaN where all states of a text are the same.
    """
    return representation.procrustes(_described(source), _described(target), centre=False)


def kappa(target: Samples, source: Samples, head: Head) -> float:
    """``1 - κ`` of the top principal subspaces, from 0 to 1 (theory §11).

    The subspaces are those of ``svcca``, which takes the mean of their correlations σ; κ is the
    root mean square of ``1 - σ``. Without κ's ridge, so that no text's scale counts. NaN where all
    states of a text are the same.
    """
    return 1 - whitening.kappa(_described(source), _described(target), ridge=0.0, centre=False)


def _described(text: Samples) -> Float[Tensor, "dim positions"]:
    return representation.centred(text.hidden).T
