"""Whether stored hidden states lie before or after a model's final norm, tested on some of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.head.sweep import sweep
from unembed.models.block_list import BlockList
from unembed.models.depths import Depths
from unembed.models.mode import evaluating
from unembed.models.running_lists import probe_ids
from unembed.short_repr import ShortRepr

Side = Literal["after-norm", "before-norm"]
SIDES: tuple[Side, ...] = ("after-norm", "before-norm")
ROW_TOKENS = 32
"""Tokens of a row in which the tail is run: fewer than any model's context."""
UNIT, FAR = 0.02, 0.05
"""Distance from 1 of the size of a state that a norm has made, at most (bfloat16 rounds each number
to 0.4 %), and of one that none has, at least."""
MOST, FEWEST = 0.99, 0.5
"""Shares of the states within the one for "after", at least, and within the other for "before"."""
ERRORS = 4.0
"""Standard errors by which the losses of the two readings must differ."""
LEAST_TRIED = 8
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Scales of the logits at which each reading's loss is taken: without its norm a model may read
colder or warmer, which alone can lower a loss."""


@dataclass(frozen=True)
class StoredTail(ShortRepr):
    """What a model does between its last block and its head, run on states alone.

    ``norm`` is the module where nothing but that one lies between; ``shape`` is that of a state.
    """

    blocks: BlockList
    shape: tuple[int, ...]
    norm: str | None
    empty: bool

    @staticmethod
    def of(model: nn.Module) -> StoredTail:
        """The tail of a model, proved. Raises HeadError as ``Depths.of`` does."""
        depths = Depths.of(model)
        blocks, tail = depths.block_list, depths.tail
        with torch.no_grad(), evaluating(model):
            _, states = blocks.read(model, probe_ids(model), [blocks.blocks])
        last = states[blocks.blocks].movedim(blocks.axes, (0, 1))
        only = tail.modules[0].partition(" (")[0] if len(tail.modules) == 1 else None
        return StoredTail(
            blocks,
            tuple(last.shape[2:]),
            only if tail.exact else None,
            tail.exact and not tail.modules,
        )

    @property
    def width(self) -> int:
        """How many numbers a state before the tail has."""
        return math.prod(self.shape)

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, states: Float[Tensor, "positions width"]
    ) -> Float[Tensor, "positions dim"]:
        """The head's input, as the model makes it of these states; a state's own row alone."""
        count = len(states)
        some = next(model.parameters())
        rows = -(-count // ROW_TOKENS)
        filled = torch.nn.functional.pad(
            states.to(some.device, some.dtype), (0, 0, 0, rows * ROW_TOKENS - count)
        )
        state = filled.view(rows, ROW_TOKENS, *self.shape).movedim((0, 1), self.blocks.axes)
        ids = torch.zeros(rows, ROW_TOKENS, dtype=torch.long, device=some.device)
        return self.blocks.replay(model, ids, state).flatten(0, 1)[:count]


@dataclass(frozen=True)
class NormSide(ShortRepr):
    """Which side of the final norm stored states lie on, and what shows it.

    ``after`` and ``before`` are the mean losses in nats of the ``tried`` states under the two
    readings, None where they do not fit one; ``unit`` is the share of states that the final norm
    can have made, None where more than a norm lies before the head. ``reason`` says it in words.
    """

    side: Side
    reason: str
    tried: int
    after: float | None
    before: float | None
    unit: float | None
    guessing: float

    def __str__(self) -> str:
        return f"{self.side.replace('-', ' the final ')} ({self.reason})"

    @property
    def loss(self) -> float:
        """The mean loss under the reading that holds."""
        found = self.after if self.side == "after-norm" else self.before
        assert found is not None
        return found


def side_of(
    where: str,
    states: Float[Tensor, "tried width"],
    targets: Int[Tensor, " tried"],
    model: nn.Module,
    head: Head,
    tail: StoredTail | None,
    *,
    asked: Side | None = None,
    written: Side | None = None,
) -> NormSide:
    """Find out on which side of the final norm some states lie.

    A state that a norm has made is of the size that it makes, whatever the text. Where more than a
    norm lies before the head, the loss decides: that of the right reading is the lower one, if each
    may scale its logits, for states that no norm has scaled can be the better tempered ones. What
    is ``asked`` for, or was ``written`` with them, holds unless the test speaks against it. Raises
    UnembedError, naming ``where``, for states that fit no reading or are no better than guessing,
    and where nothing decides.
    """
    width = states.shape[1]
    fits = [side for side in SIDES if width == _width(side, head, tail)]
    if not fits:
        inside = "" if tail is None or tail.width == head.dim else f" (its blocks {tail.width})"
        raise UnembedError(
            f"{where} has states of {width:,} numbers, and the head of this model reads "
            f"{head.dim:,}{inside}: they are another model's"
        )
    kept = torch.isfinite(states).all(dim=1)
    if not bool(kept.any()):
        raise UnembedError(
            f"{where}: none of {len(states):,} states tried is finite: write it again"
        )
    states, targets = states[kept], targets[kept]
    blank = int((states == 0).all(dim=1).sum())
    if written is None and blank:
        raise UnembedError(
            f"{where}: {blank} of {len(states):,} states tried are nothing but zeros, "
            "as where none was written: write it again"
        )
    inputs = {side: states if side == "after-norm" else _run(tail, model, states) for side in fits}
    losses = {side: _losses(some, targets, head) for side, some in inputs.items()}
    off = None if tail is None or tail.norm is None else off_size(model, tail.norm, states)
    unit = None if off is None else float((off <= UNIT).double().mean())
    said = _by_size(off) or _by_loss(inputs, targets, head)
    found: set[Side] = set() if said is None else {said}
    side = asked or written
    guessing = math.log(head.tokens)
    seen = _seen(unit, losses, guessing)
    if tail is None and side == "before-norm":
        raise UnembedError(
            f"{where}: what this model does between its blocks and its head is not proved, so that "
            "states before it cannot be used: store those after the norm"
        )
    if tail is not None and len(fits) == 1:
        found, seen = {fits[0]}, f"of {width:,} numbers each; {seen}"
    elif tail is not None and tail.empty:
        side, found = side or "after-norm", set()
        seen = f"nothing lies between the blocks and the head; {seen}"
    if side is not None and found and found != {side}:
        given = "--states-are says" if asked else "its manifest says"
        raise UnembedError(
            f"{where}: {given} {side}, and its states lie {next(iter(found))} ({seen}): "
            + ("leave --states-are out" if asked else "write it again")
        )
    if side is None and not found:
        raise UnembedError(
            f"{where}: whether its states lie before or after the final norm is not clear "
            f"({seen}): give --states-are before-norm or --states-are after-norm"
        )
    held: Side = next(iter(found)) if side is None else side
    means = {one: float(loss.mean()) for one, loss in losses.items()}
    made = NormSide(
        held, seen, len(states), means.get("after-norm"), means.get("before-norm"), unit, guessing
    )
    if written is None and made.loss >= guessing:
        raise UnembedError(
            f"{where}: read {held} its loss is {made.loss:.2f} nats, no better than guessing "
            f"among {head.tokens:,} tokens ({guessing:.2f}; {seen}): its states, or its token ids, "
            "are another model's"
        )
    return made


@torch.no_grad()
def off_size(
    model: nn.Module, norm: str, states: Float[Tensor, "tried width"]
) -> Float[Tensor, " tried"] | None:
    """How far each state is from the size that a norm gives to whatever it reads.

    What a norm makes is ``gain * u + shift`` with the mean square of u at 1: ``|rms(u) - 1|`` is 0
    for it. Gain and shift are read off it by two rows of +1 and -1, which it leaves as they are.
    None of a module that is no norm, since a row four times as large gives something else.
    """
    module = model.get_submodule(norm)
    some = next(module.parameters(), next(model.parameters()))
    width = states.shape[1]
    signs = torch.ones(width, device=some.device)
    signs[1::2] = -1
    if width % 2:
        signs[-1] = 0
    rows = torch.stack([signs, -signs, 4 * signs])[None].to(some.dtype)
    plus, minus, larger = module(rows)[0].double().cpu()
    if plus.shape != signs.shape or not torch.allclose(larger, plus, rtol=UNIT, atol=UNIT):
        return None
    signs = signs.double().cpu()
    gain = (plus - minus) / 2 * signs * math.sqrt(float(signs.square().mean()))
    shift, seen = (plus + minus) / 2, gain != 0
    if not bool(seen.any()):
        return None
    size = ((states.double().cpu() - shift)[:, seen] / gain[seen]).square().mean(dim=1).sqrt()
    off: Float[Tensor, " tried"] = (size - 1).abs()
    return off


def _width(side: Side, head: Head, tail: StoredTail | None) -> int | None:
    if side == "after-norm":
        return head.dim
    return None if tail is None else tail.width


def _run(
    tail: StoredTail | None, model: nn.Module, states: Float[Tensor, "tried width"]
) -> Float[Tensor, "tried dim"]:
    assert tail is not None
    return tail(model, states)


def _losses(
    hidden: Float[Tensor, "tried dim"], targets: Int[Tensor, " tried"], head: Head
) -> Float[Tensor, " tried"]:
    """The loss of each state, in float64."""
    hidden = hidden.to(head.weight.device)
    swept = sweep(hidden, head, targets.to(hidden.device), precision=head.precision(hidden.dtype))
    return swept.nll.double().cpu()


def _by_size(off: Float[Tensor, " tried"] | None) -> Side | None:
    """What the sizes say; rounding to bfloat16 alone must not be taken for states before a norm."""
    if off is None:
        return None
    if float((off <= UNIT).double().mean()) >= MOST:
        return "after-norm"
    return "before-norm" if float((off <= FAR).double().mean()) <= FEWEST else None


def _by_loss(
    inputs: dict[Side, Float[Tensor, "tried dim"]], targets: Int[Tensor, " tried"], head: Head
) -> Side | None:
    """The reading of the lower loss, each at its best scale of the logits.

    None where that is no better than guessing, or the difference is within noise.
    """
    if len(inputs) < 2 or len(targets) < LEAST_TRIED:
        return None
    best: dict[Side, Float[Tensor, " tried"]] = {}
    for side, hidden in inputs.items():
        tried = [_losses(hidden, targets, head.sharpened(factor)) for factor in FACTORS]
        best[side] = min(tried, key=lambda loss: float(loss.mean()))
    apart = best["after-norm"] - best["before-norm"]
    error = float(apart.std()) / math.sqrt(len(apart))
    if not abs(float(apart.mean())) > ERRORS * error:
        return None
    better: Side = "after-norm" if float(apart.mean()) < 0 else "before-norm"
    return better if float(best[better].mean()) < math.log(head.tokens) else None


def _seen(unit: float | None, losses: dict[Side, Float[Tensor, " tried"]], guessing: float) -> str:
    """What was seen, in words."""
    told = []
    if unit is not None:
        told.append(f"{100 * unit:.0f} % are of the size that the norm makes")
    told += [f"loss {float(loss.mean()):.2f} read {side}" for side, loss in losses.items()]
    return ", ".join(told) + f", guessing {guessing:.2f}"
