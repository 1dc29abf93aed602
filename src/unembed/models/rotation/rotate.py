"""A model whose residual stream is turned so that rounding its weights changes fewer decisions."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.head.head import input_device, output_embedding
from unembed.head.product import float32_products
from unembed.models.adapters import has_adapter_in_place
from unembed.models.checkpoint import Checkpoint, hushed
from unembed.models.devices.placement import refuse_placed
from unembed.models.mode import evaluating, restores_mode
from unembed.models.model_check import SENTENCES
from unembed.models.names import SCHEMES
from unembed.models.rotation.learn import (
    STEPS,
    Matrices,
    learned_rotation,
    plain_maximum,
    random_rotation,
)
from unembed.models.rotation.stream import Stream
from unembed.models.rotation.turn import can_fold, fold, matrix_of, turn
from unembed.models.untied import is_tied, untie
from unembed.runs.table import as_text
from unembed.short_repr import ShortRepr

SAME = 1e-3
"""Largest difference of two models' logits that are one function, in spreads of a position's."""
WORTH = 0.97
"""Of the largest weights before, what is called a gain."""
ROW_TOKENS = 32
TRACED_TOKENS = 8
RANDOM_ROWS = 4


@dataclass(frozen=True)
class Rotation(ShortRepr):
    """A rotated model, and what was proved and learned of it; ``rotate`` makes it.

    ``checkpoint`` is the model. ``seed`` and ``steps`` made the rotation, for weights rounded as
    ``scheme``, in ``seconds``. ``difference`` is the largest of its logits from the first model's,
    in spreads (standard deviations over the vocabulary) of a position's logits, over
    ``proved_positions`` positions in float32. ``before``, ``folded`` and ``after`` are the rms over
    rows of the linear layers of the largest weight over the row's rms (for ``int4`` the largest of
    each 32): the smaller, the less rounding moves. ``unties`` says that the head had been tied to
    the embedding, and ``fixes_ones`` that the norms take the mean away, so that the rotation keeps
    the vector of ones. ``dtype`` is the precision of the weights.
    """

    checkpoint: Checkpoint
    scheme: str
    seed: int
    steps: int
    seconds: float
    difference: float
    proved_positions: int
    before: float
    folded: float
    after: float
    width: int
    readers: int
    writers: int
    norms: int
    unties: bool
    fixes_ones: bool
    dtype: str

    @property
    def verdict(self) -> str:
        """What it comes to, in a sentence."""
        sizes = f"{self._largest} is {self.after:.2f} times the row's rms, {self.before:.2f} before"
        gain = "round better" if self.after < WORTH * self.before else "hardly round better"
        return (
            f"{self.checkpoint.name} is the same function in other weights, which {gain} to "
            f"{self.scheme}: {sizes}."
        )

    @property
    def to_mind(self) -> tuple[str, ...]:
        """What to know of the model that was made, a sentence each."""
        found = []
        if self.after >= WORTH * self.before:
            found.append("its weights had no large ones to spread: expect little of this rotation")
        if self.unties:
            found.append("its head was tied to the embedding and has a matrix of its own now")
        if self.dtype != "float32":
            found.append(
                f"its weights were rounded to {self.dtype} once more, which changes decisions: "
                "--dtype float32 keeps them"
            )
        return tuple(found)

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Name and value of everything that was found."""
        turned = f"{self.readers} readers, {self.writers} writers, {self.norms} norms"
        keeps = ", the vector of ones kept" if self.fixes_ones else ""
        learned = f"in {self.steps} steps" if self.steps else "not learned, random"
        return [
            ("residual stream", f"{self.width:,} wide{keeps}: {turned}"),
            ("rotation", f"{learned}, seed {self.seed}, for {self.scheme}"),
            ("time", f"{self.seconds:,.1f} s"),
            (self._largest, f"{self.before:.3f} rms before, {self.after:.3f} after"),
            ("with the norms folded alone", f"{self.folded:.3f} rms"),
            (
                "largest change of a logit",
                f"{self.difference:.1g} of the logits' spread, {self.proved_positions} positions",
            ),
            ("stored as", self.dtype),
        ]

    @property
    def _largest(self) -> str:
        group = SCHEMES[self.scheme]
        return f"largest weight of {'a row' if group is None else f'{group}'}"

    def __str__(self) -> str:
        mind = "".join(f"  - {one}\n" for one in self.to_mind)
        return f"{self.verdict}\n{mind}\n{as_text(self.lines)}"

    def _phrases(self) -> Iterator[str]:
        yield self.checkpoint.name
        yield f"largest weight {self.before:.2f} → {self.after:.2f} rms"
        yield f"logits within {self.difference:.1g} spreads"


def rotated(
    checkpoint: Checkpoint,
    scheme: str = "int8",
    *,
    seed: int = 0,
    steps: int = STEPS,
    progress: bool = False,
) -> Checkpoint:
    """``rotate(...).checkpoint``: the same function in weights that are rounded with less harm."""
    return rotate(checkpoint, scheme, seed=seed, steps=steps, progress=progress).checkpoint


@restores_mode
def rotate(
    checkpoint: Checkpoint,
    scheme: str = "int8",
    *,
    seed: int = 0,
    steps: int = STEPS,
    progress: bool = False,
) -> Rotation:
    """A copy of a model with its residual stream turned by a rotation learned from its weights.

    Norms' gains are folded into the linear layers behind them, and then, for an orthogonal ``Q``,
    embeddings become ``E Q``, what reads the stream ``W Q`` and what writes to it ``Q^T W``: in
    exact arithmetic the same function. ``Q`` makes the largest weight of a row (for ``int4``, of
    each 32) small against the row's rms, for the rounding of ``quantized(checkpoint, scheme)``;
    ``steps`` 0 leaves it random. A tied head is no longer tied.

    What reads and writes the stream is found by running the model, and the logits of both are
    compared in float32 on random and real rows; the weights are then stored in their own dtype, so
    that a model in bfloat16 is rounded to it once more. Raises UnembedError, naming the module, for
    a model that no rotation is known for; for weights that were quantised, an adapter in place, and
    a model over several devices. Sources: SliceGPT (arXiv 2401.15024) for what leaves the function,
    QuaRot (2404.00456) and SpinQuant (2405.16406) for rotations before a rounding.
    """
    _refuse(checkpoint, scheme, steps)
    start, name = time.monotonic(), checkpoint.name
    model: Any = copy.deepcopy(checkpoint.model)
    stored = {key: value.dtype for key, value in model.state_dict(keep_vars=True).items()}
    grads = {key: one.requires_grad for key, one in model.named_parameters()}
    model = model.float().eval()
    draws = torch.Generator().manual_seed(seed)
    rows = _proving_rows(checkpoint, draws)
    with evaluating(model), float32_products("ieee"):
        wanted = [model(input_ids=ids, use_cache=False).logits for ids in rows]
    unties = is_tied(model)
    if unties:
        with hushed():
            untie(model, "it cannot be rotated")
    model.requires_grad_(True)
    stream = Stream.of(model, rows[0][:, :TRACED_TOKENS], name)
    model.requires_grad_(False)
    _refuse_shared(model, stream, name)
    for norm in stream.norms:
        if norm.readers and not can_fold(norm):
            raise UnembedError(f"{name}: a norm has a bias and gains of zero: it cannot be rotated")
    group = SCHEMES[scheme]
    before = _matrices(stream, output_embedding(model), group)
    eye = torch.eye(stream.width, device=before.readers.device)
    was = _peak(before, eye)
    fold(stream)
    matrices = _matrices(stream, output_embedding(model), group)
    folded = _peak(matrices, eye)
    if steps:
        found = learned_rotation(
            matrices, seed=seed, steps=steps, keeps_ones=stream.centred, progress=progress
        )
    else:
        draws = torch.Generator().manual_seed(seed)
        found = random_rotation(stream.width, draws, keeps_ones=stream.centred)
    after = _peak(matrices, found.to(eye))
    turn(stream, found.to(eye.device))
    with evaluating(model), float32_products("ieee"):
        differences = [
            float(_in_spreads(model(input_ids=ids, use_cache=False).logits, logits).max())
            for ids, logits in zip(rows, wanted, strict=True)
        ]
    worst = max(differences)
    if not worst <= SAME:
        raise UnembedError(
            f"{name} rotated is not the same function: its logits move by {worst:.2g} of their "
            f"spread, and rounding allows {SAME:g}; nothing was kept"
        )
    for key, value in model.state_dict(keep_vars=True).items():
        value.data = value.data.to(stored.get(key, value.dtype))
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(grads.get(key, False))
    some = next(model.parameters())
    return Rotation(
        replace(checkpoint, name=f"{name} rotated", model=model),
        scheme,
        seed,
        steps,
        time.monotonic() - start,
        worst,
        sum(ids.numel() for ids in rows),
        was,
        folded,
        after,
        stream.width,
        len(stream.readers),
        len(stream.writers),
        len(stream.norms),
        unties,
        stream.centred,
        str(some.dtype).removeprefix("torch."),
    )


def _refuse(checkpoint: Checkpoint, scheme: str, steps: int) -> None:
    """Raise UnembedError, before the work, for what cannot be rotated whatever its layers are."""
    name = checkpoint.name
    if scheme not in SCHEMES:
        raise UnembedError(f"--for {scheme!r} is not one of {', '.join(SCHEMES)}")
    if steps < 0:
        raise UnembedError(
            f"--steps {steps} learns nothing: give 0, for a random rotation, or more"
        )
    if checkpoint.stored_as is not None:
        raise UnembedError(
            f"{name} holds weights that were rounded to {checkpoint.stored_as}: rotate the model "
            "that they were made of, and round that"
        )
    if has_adapter_in_place(checkpoint):
        raise UnembedError(
            f"{name} has an adapter in place: merge it into the weights first "
            "(peft's merge_and_unload), and rotate the model that this gives"
        )
    refuse_placed(checkpoint.model, "rotation changes")


def _refuse_shared(model: nn.Module, stream: Stream, name: str) -> None:
    """Raise UnembedError where two modules of which one is turned share a weight."""
    holders: dict[int, list[str]] = {}
    turned: set[int] = set()
    moved = {*stream.readers, *stream.writers, *(norm.module for norm in stream.norms)}
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), []).append(path)
            if module in moved:
                turned.add(id(parameter))
    for one in turned:
        if len(holders[one]) > 1:
            raise UnembedError(
                f"{name}: {' and '.join(holders[one][:2])} share a weight, so that neither can be "
                "rotated alone"
            )


def _proving_rows(
    checkpoint: Checkpoint, draws: torch.Generator
) -> tuple[Int[Tensor, "rows seq"], ...]:
    """Random tokens, and rows of plain text where there is a tokenizer."""
    model: Any = checkpoint.model
    rows = int(model.get_input_embeddings().weight.shape[0])
    ids = [torch.randint(rows, (RANDOM_ROWS, ROW_TOKENS), generator=draws)]
    if checkpoint.tokenizer is not None:
        for sentence in SENTENCES:
            said = checkpoint.tokenizer(sentence)["input_ids"][:ROW_TOKENS]
            if len(said) > 1:
                ids.append(torch.tensor([said]))
    device = input_device(model)
    return tuple(one.to(device) for one in ids)


def _in_spreads(
    logits: Float[Tensor, "rows seq vocab"], wanted: Float[Tensor, "rows seq vocab"]
) -> Float[Tensor, "rows seq"]:
    """The largest difference of a position's logits, in standard deviations of them."""
    apart = (logits - wanted).abs().amax(-1)
    return apart / wanted.std(-1).clamp_min(torch.finfo(wanted.dtype).tiny)


def _matrices(stream: Stream, head: nn.Module, group: int | None) -> Matrices:
    """What a rotation turns of the weights that are rounded: all but head and embeddings."""
    readers = [one for one in stream.readers if one is not head]
    writers = [one for one in stream.writers if not isinstance(one, nn.Embedding)]
    return Matrices.of(_float32(readers), _float32(writers), group)


def _float32(linears: Sequence[nn.Module]) -> list[Float[Tensor, "out in"]]:
    return [matrix_of(one).float() for one in linears]


@torch.no_grad()
def _peak(matrices: Matrices, rotation: Float[Tensor, "width width"]) -> float:
    return float(matrices.roughness(rotation, plain_maximum).sqrt())
