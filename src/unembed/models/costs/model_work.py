"""What a model's shape makes a machine do and hold, counted without a weight."""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from unembed.errors import HeadError, UnembedError
from unembed.head.head import final_hidden, output_embedding
from unembed.models.checkpoint import (
    CONTEXT_LIMIT,
    automatic_class,
    configured_context,
    quietly,
    stored_dtype,
)
from unembed.short_repr import ShortRepr

SHORT, LONG = 64, 128
"""Tokens at which operations are counted: two lengths tell what grows with the square of one."""
CAUSAL = 0.5
"""Share of a fused attention's products that are above no token's own place."""
LEAST_CAPACITY = 2


@dataclass(frozen=True)
class ModelWork(ShortRepr):
    """What one token asks of a model, and what its weights take.

    ``flops`` are the body's for a token, embeddings and head left out, experts that are not chosen
    too; ``attention_flops`` come to them for each token of its window. ``state_bytes`` are the most
    that states and what is between them take at once, a token, and ``attention_bytes`` what comes
    to them for each token of its window (0 of fused attention). The head has ``rows`` of ``width``.
    """

    name: str
    architecture: str
    dtype: torch.dtype
    parameters: int
    rows: int
    width: int
    tied: bool
    flops: float
    attention_flops: float
    state_bytes: float
    attention_bytes: float
    most_context: int | None
    layers: int
    heads: int

    @property
    def bytes_a_number(self) -> int:
        """Of a weight."""
        return self.dtype.itemsize

    @property
    def weight_bytes(self) -> int:
        """Of all weights, plain: rounded ones are unpacked where they are read."""
        return self.parameters * self.bytes_a_number

    @property
    def head_bytes(self) -> int:
        """Of the head's own weight, which is the embedding's too where they are tied."""
        return self.rows * self.width * self.bytes_a_number

    def body_flops(self, window: float) -> float:
        """Of a token of the body in a window of so many tokens."""
        return self.flops + self.attention_flops * window

    def body_bytes(self, window: float) -> float:
        """Of a token's states in a window of so many tokens."""
        return self.state_bytes + self.attention_bytes * window

    def context(self, asked: int | None) -> int:
        """Tokens of a window: those asked for, or the model's own, at most 2,048."""
        most = self.most_context
        if asked is not None and (asked < LEAST_CAPACITY or (most is not None and asked > most)):
            limit = "" if most is None else f" to the {most:,} that it is configured for"
            raise UnembedError(
                f"--context {asked} is no window of {self.name}: give {LEAST_CAPACITY}{limit}"
            )
        return min(most or CONTEXT_LIMIT, CONTEXT_LIMIT) if asked is None else asked

    @staticmethod
    def of(name: str, config: Any, dtype: str = "auto") -> ModelWork:
        """Count a model's work from its configuration, and from nothing else.

        It is made of tensors without numbers and read at two lengths, so that any architecture is
        counted as it is. Raises UnembedError for what makes no causal language model.
        """
        fake: Any = FakeTensorMode(allow_non_fake_inputs=True)
        with _one_line(name), quietly(), fake, torch.no_grad():
            model = _skeleton(config, precision_of(config, dtype))
            head: Any = output_embedding(model).weight
            flops, peaks = zip(*(_read(model, tokens) for tokens in (SHORT, LONG)), strict=True)
            per_token, squared = _by_length(flops)
            state_bytes, attention_bytes = _by_length(peaks)
            text = config.get_text_config()
            return ModelWork(
                name=name,
                architecture=type(model).__name__,
                dtype=next(model.parameters()).dtype,
                parameters=sum(parameter.numel() for parameter in model.parameters()),
                rows=int(head.shape[0]),
                width=int(head.shape[1]),
                tied=model.get_input_embeddings().weight is head,
                flops=per_token,
                attention_flops=CAUSAL * squared,
                state_bytes=state_bytes,
                attention_bytes=attention_bytes,
                most_context=configured_context(config),
                layers=getattr(text, "num_hidden_layers", 1),
                heads=getattr(text, "num_attention_heads", None) or 1,
            )


def _by_length(counts: Sequence[float]) -> tuple[float, float]:
    """What a token takes, and what more for each token of its window, of counts of two rows."""
    short, long = counts[0] / SHORT, counts[1] / LONG
    square = max(0.0, (long - short) / (LONG - SHORT))
    return short - square * SHORT, square


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turn what making a model of a configuration raises into one line with a remedy."""
    try:
        yield
    except HeadError as error:
        raise UnembedError(f"{name}: {error}") from error
    except Exception as error:
        said = str(error).strip().splitlines() or [repr(error)]
        raise UnembedError(
            f"{name} has a config.json that makes no causal language model ({said[0]}): give that "
            "of a whole model"
        ) from error


def precision_of(config: Any, dtype: str) -> torch.dtype:
    """The precision that a body is loaded in: the one asked for, or the checkpoint's own."""
    asked: Any = stored_dtype(config) if dtype == "auto" else dtype
    if isinstance(asked, str):
        asked = getattr(torch, asked, None)
    return asked if asked in (torch.float16, torch.bfloat16) else torch.float32


def _skeleton(config: Any, dtype: torch.dtype) -> Any:
    """A model of a configuration, to be made inside a mode without numbers.

    Experts are taken by products of all tokens at once where the architecture has them, since which
    token goes where is not known without numbers.
    """
    auto = automatic_class(config)
    at_once = copy.deepcopy(config)
    at_once._experts_implementation = "batched_mm"
    try:
        return auto.from_config(at_once, dtype=dtype).eval()
    except (ValueError, NotImplementedError):  # an architecture that chooses among no experts
        return auto.from_config(copy.deepcopy(config), dtype=dtype).eval()


def _read(model: nn.Module, tokens: int) -> tuple[float, float]:
    """Operations of the body on one row of so many tokens, and the most bytes held at once."""
    counter = FlopCounterMode(display=False, custom_mapping=_ON_CPU)
    with _Held(model) as held, counter:
        final_hidden(model, torch.zeros(1, tokens, dtype=torch.long))
    return float(counter.get_total_flops()), float(held.most)


class _Held(TorchDispatchMode):
    """The most bytes that results of operations took at once, beside the weights.

    A chosen expert's weights are copied only because all experts are taken at once here.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        held = (*model.parameters(), *model.buffers())
        self.weights = {one.untyped_storage()._cdata for one in held}
        self.seen = set(self.weights)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        chosen = function is torch.ops.aten.index.Tensor
        if chosen and args[0].untyped_storage()._cdata in self.weights:
            copied = made.untyped_storage()
            self.seen.add(copied._cdata)
            weakref.finalize(copied, self.seen.discard, copied._cdata)
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor):
                self._note(one.untyped_storage())
        return made

    def _note(self, storage: Any) -> None:
        key = storage._cdata
        if key in self.seen:
            return
        size = storage.nbytes()
        self.seen.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._let_go, key, size)

    def _let_go(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def _attention(
    query: Any, key: Any, value: Any, *_args: Any, out_shape: Any = None, **_kwargs: Any
) -> int:
    """Operations of fused attention: every query with every key, and with every value."""
    batch, heads, rows, width = query
    products: int = 2 * batch * heads * rows * key[-2] * (width + value[-1])
    return products


_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""Torch's own counter knows the fused attentions of GPUs alone."""
