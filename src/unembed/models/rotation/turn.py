"""Turn a model's residual stream in place, which leaves the function that it computes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unembed.models.rotation.norms import NormForm
from unembed.models.rotation.stream import Stream, StreamNorm

SMALLEST_GAIN = 1e-4
"""Of a norm with a bias, as a share of its largest: what its bias is divided by."""


@torch.no_grad()
def fold(stream: Stream) -> None:
    """Move every norm's gain into the linear layers that read it; all gains are 1 then.

    ``W (g * u) = (W diag(g)) u``. A bias is folded into theirs where all of them have one, else
    divided by the gain.
    """
    for norm in stream.norms:
        if norm.readers:
            _fold(norm)


def _fold(norm: StreamNorm) -> None:
    form, module = norm.form, norm.module
    gain, bias = form.gain_of(module), form.bias_of(module)
    if bias is not None:
        has_bias = [getattr(one, "bias", None) is not None for one in norm.readers]
        if all(has_bias):
            for one in norm.readers:
                own = one.get_parameter("bias")
                own.copy_(own.double() + matrix_of(one) @ bias)
            moved = torch.zeros_like(bias)
        else:
            moved = bias / gain
        module.get_parameter(str(form.bias)).copy_(moved)
    for one in norm.readers:
        set_matrix(one, matrix_of(one) * gain)
    if form.weight is not None:
        module.get_parameter(form.weight).fill_(1 - form.offset)


def can_fold(norm: StreamNorm) -> bool:
    """Whether a bias, if there is one, has somewhere to go."""
    bias = norm.form.bias_of(norm.module)
    if bias is None or all(getattr(one, "bias", None) is not None for one in norm.readers):
        return True
    gain = norm.form.gain_of(norm.module).abs()
    return float(gain.min()) > SMALLEST_GAIN * float(gain.max())


@torch.no_grad()
def turn(stream: Stream, rotation: Float[Tensor, "width width"]) -> None:
    """Turn a folded stream: its states become ``h Q``.

    Readers become ``W Q``, writers ``Q^T W`` with bias ``Q^T b``, embeddings ``E Q``, and what is
    left of a norm's bias ``Q^T b``. Products are taken in float64.
    """
    for reader in stream.readers:
        set_matrix(reader, matrix_of(reader) @ rotation)
    for writer in stream.writers:
        if isinstance(writer, nn.Embedding):
            writer.weight.copy_(writer.weight.double() @ rotation)
            continue
        set_matrix(writer, rotation.T @ matrix_of(writer))
        own = getattr(writer, "bias", None)
        if own is not None:
            own.copy_(rotation.T @ own.double())
    for norm in stream.norms:
        _turn_bias(norm.module, norm.form, rotation)


def _turn_bias(module: nn.Module, form: NormForm, rotation: Tensor) -> None:
    bias = form.bias_of(module)
    if bias is not None:
        module.get_parameter(str(form.bias)).copy_(rotation.T @ bias)


def matrix_of(linear: nn.Module) -> Float[Tensor, "out in"]:
    """The matrix of a linear layer, or of GPT-2's, which holds it transposed; in float64."""
    weight = linear.get_parameter("weight").detach().double()
    return weight if isinstance(linear, nn.Linear) else weight.T


def set_matrix(linear: nn.Module, matrix: Float[Tensor, "out in"]) -> None:
    """Put a matrix into a linear layer, in the dtype of the layer."""
    weight = linear.get_parameter("weight")
    weight.copy_(matrix if isinstance(linear, nn.Linear) else matrix.T)
