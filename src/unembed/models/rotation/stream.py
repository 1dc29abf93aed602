"""A model's residual stream, found by running it: what reads it, what writes to it, what scales it.

The model runs once with gradients. Linear layers, embeddings and norms are marked where a tensor
enters and leaves them, and autograd's record of the run is followed from the head's input: through
sums, changes of shape and products by one number a position, which no rotation notices, up to the
marks. Whatever else reads or makes the stream is refused by its name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.head.head import output_embedding
from unembed.models.quantization import is_linear
from unembed.models.rotation.norms import NormForm
from unembed.short_repr import ShortRepr

SAME_NUMBERS = frozenset(
    f"{name}Backward0"
    for name in [
        "View",
        "UnsafeView",
        "ReshapeAlias",
        "_ReshapeAlias",
        "Clone",
        "ToCopy",
        "Alias",
        "Expand",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Transpose",
        "Permute",
        "Select",
        "Index",
    ]
)
"""Nodes that leave a state's numbers as they are, where its last axis stays what it was."""
BY_A_NUMBER = frozenset({"MulBackward0", "DivBackward0"})
SUMS = frozenset({"AddBackward0", "SubBackward0"})


@dataclass(frozen=True)
class StreamNorm(ShortRepr):
    """A norm of the residual stream, and the linear layers that alone read what it gives.

    Without ``readers`` what it gives is added to the stream, so that it must scale all alike.
    """

    module: nn.Module
    form: NormForm
    readers: tuple[nn.Module, ...]


@dataclass(frozen=True)
class Stream(ShortRepr):
    """The modules that read a residual stream of this width, write to it, and scale it.

    ``readers`` and ``writers`` are linear layers (the head is a reader) and embeddings, which
    write; one may do both. ``centred``: some norm takes the mean away, which only rotations that
    keep the vector of ones leave as it was.
    """

    width: int
    readers: tuple[nn.Module, ...]
    writers: tuple[nn.Module, ...]
    norms: tuple[StreamNorm, ...]

    @property
    def centred(self) -> bool:
        """Whether a norm takes the mean away."""
        return any(norm.form.centred for norm in self.norms)

    @staticmethod
    def of(model: nn.Module, input_ids: Int[Tensor, "batch seq"], name: str) -> Stream:
        """Follow one run of a float32 model, all of whose parameters require gradients.

        Raises UnembedError, with the name of the module, for what no rotation passes through.
        """
        with torch.enable_grad():
            run = _Run.of(model, input_ids)
        return _Walk(run, name).stream()


class _Mark(torch.autograd.Function):
    """A copy of a tensor that leaves a node of its own in autograd's record."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def _marked(tensor: Tensor) -> Tensor:
    made: Tensor = _Mark.apply(tensor)  # type: ignore[no-untyped-call]
    return made


@dataclass(frozen=True, eq=False)
class _Call:
    """A call of a marked module: the nodes where its input entered and its output left."""

    module: nn.Module
    path: str
    enters: Any
    leaves: Any


@dataclass
class _Run:
    """Autograd's record of a run of a model.

    ``entering`` and ``leaving`` are the calls by their nodes, ``consumers`` the nodes that took
    what a node gave. ``head`` is the node that entered the head.
    """

    model: nn.Module
    forms: dict[nn.Module, NormForm]
    entering: dict[Any, _Call] = field(default_factory=dict)
    leaving: dict[Any, _Call] = field(default_factory=dict)
    consumers: dict[Any, list[Any]] = field(default_factory=dict)
    head: Any = None

    @staticmethod
    def of(model: nn.Module, input_ids: Int[Tensor, "batch seq"]) -> _Run:
        config: Any = model.config
        width = getattr(config.get_text_config(), "hidden_size", None)
        forms = {}
        for module in model.modules():
            if not is_linear(module) and not isinstance(module, nn.Embedding):
                form = NormForm.of(module, width)
                if form is not None:
                    forms[module] = form
        run = _Run(model, forms)
        with contextlib.ExitStack() as stack:
            for path, module in model.named_modules():
                if is_linear(module) or isinstance(module, nn.Embedding) or module in forms:
                    run._mark(stack, path, module)
            said: Any = model(input_ids=input_ids, use_cache=False)
        logits = said.logits
        run._connect(logits.grad_fn)
        return run

    def _mark(self, stack: contextlib.ExitStack, path: str, module: nn.Module) -> None:
        entered: list[Any] = []

        def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            args, kwargs = list(args), dict(kwargs)  # type: ignore[assignment]
            holder: Any = args if args else kwargs
            key: Any = 0 if args else next(iter(kwargs))
            node = None
            if isinstance(holder[key], Tensor) and holder[key].requires_grad:
                holder[key] = _marked(holder[key])
                node = holder[key].grad_fn
            entered.append(node)
            return tuple(args), kwargs

        def leave(_module: nn.Module, _args: Any, output: Any) -> Any:
            node = entered.pop()
            if not isinstance(output, Tensor):
                return None
            made = _marked(output)
            call = _Call(module, path, node, made.grad_fn)
            self.leaving[call.leaves] = call
            if call.enters is not None:
                self.entering[call.enters] = call
                if module is output_embedding(self.model):
                    self.head = call.enters
            return made

        stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(module.register_forward_hook(leave).remove)

    def _connect(self, root: Any) -> None:
        seen, left = {root}, [root]
        while left:
            node = left.pop()
            for before, _number in node.next_functions:
                if before is not None:
                    self.consumers.setdefault(before, []).append(node)
                    if before not in seen:
                        seen.add(before)
                        left.append(before)


class _Walk:
    """The nodes whose tensors a rotation of the stream turns, from the head's input on."""

    def __init__(self, run: _Run, name: str) -> None:
        self.run, self.name = run, name
        if run.head is None:
            raise UnembedError(f"{name} does not call its head as a module: it cannot be rotated")
        self.width = _shape(run.head)[-1]
        self.turned: set[Any] = set()
        self.readers: dict[nn.Module, None] = {}
        self.writers: dict[nn.Module, None] = {}
        self.norms: dict[nn.Module, None] = {}

    def stream(self) -> Stream:
        """Follow everything that is turned where the head's input is."""
        left = [self.run.head]
        while left:
            node = left.pop()
            if node not in self.turned:
                self.turned.add(node)
                left.extend(self._before(node))
                left.extend(self._after(node))
        self._check_calls()
        norms = tuple(self._norm(module) for module in self.norms)
        if not norms:
            raise UnembedError(f"{self.name} has no norm before its head: nothing to rotate")
        readers, writers = tuple(self.readers), tuple(self.writers)
        if not any(isinstance(one, nn.Embedding) for one in writers):
            raise UnembedError(
                f"{self.name}: the embedding does not write to the state that the head reads, "
                "so no rotation is known for it"
            )
        return Stream(self.width, readers, writers, norms)

    def _before(self, node: Any) -> Iterable[Any]:
        """The nodes before a turned one that are turned with it."""
        leaving = self.run.leaving.get(node)
        if leaving is not None:
            if leaving.module in self.run.forms:
                self.norms[leaving.module] = None
                return [leaving.enters]
            self.writers[leaving.module] = None
            return []
        sources = [before for before, _number in node.next_functions]
        kind = type(node).__name__
        if node in self.run.entering:
            return sources
        if kind in SAME_NUMBERS and self._keeps_width(node):
            return sources[:1]
        if kind in BY_A_NUMBER and self._keeps_width(node):
            return [self._scaled(node, sources)]
        if kind in SUMS and self._keeps_width(node) and all(one is not None for one in sources):
            return sources
        raise self._refusal(node, "writes to")

    def _after(self, node: Any) -> Iterable[Any]:
        """The nodes that take what a turned one gives."""
        entering = self.run.entering.get(node)
        if entering is None:
            return self.run.consumers.get(node, [])
        if entering.module in self.run.forms:
            self.norms[entering.module] = None
            return [entering.leaves]
        self.readers[entering.module] = None
        return []

    def _keeps_width(self, node: Any) -> bool:
        return bool(_shape(node)) and _shape(node)[-1] == self.width

    def _scaled(self, node: Any, sources: list[Any]) -> Any:
        """Of a product, the factor that is a state, where the other is a number a position."""
        states = [one for one in sources if one is not None and self._keeps_width(one)]
        if len(states) == 1:
            others = [one for one in sources if one is not None and one is not states[0]]
            saved = [getattr(node, f"_saved_{side}", None) for side in ("self", "other")]
            constants = [
                one for one in saved if isinstance(one, Tensor) and _shape_of(one)[-1] != self.width
            ]
            by_number = others or constants
            if by_number and all(_last(one) == 1 for one in by_number):
                return states[0]
        raise self._refusal(node, "scales")

    def _check_calls(self) -> None:
        """Raise UnembedError where a module reads or writes the stream in some calls only."""
        for calls, roles in (
            (self.run.entering, self.readers),
            (self.run.leaving, self.writers),
        ):
            for node, call in calls.items():
                if call.module in roles and node not in self.turned:
                    raise UnembedError(
                        f"{self.name}: {call.path} is called on the residual stream and elsewhere "
                        "too, so that it cannot be rotated"
                    )

    def _norm(self, module: nn.Module) -> StreamNorm:
        """A norm with its readers; refused where it scales what blocks write."""
        readers: dict[nn.Module, None] = {}
        kept, path = False, ""
        for call in self.run.leaving.values():
            if call.module is module:
                path = call.path
                found = _readers_of(self.run, call.leaves)
                kept = kept or found is None
                readers.update(dict.fromkeys(found or ()))
        form = self.run.forms[module]
        if not kept:
            return StreamNorm(module, form, tuple(readers))
        gain = form.gain_of(module)
        if float((gain - gain.mean()).abs().max()) > 1e-6 * float(gain.abs().max()):
            raise UnembedError(
                f"{self.name}: {path} scales what is added to the residual stream, each direction "
                "by another number, so that no rotation leaves the model as it is"
            )
        return StreamNorm(module, form, ())

    def _refusal(self, node: Any, does: str) -> UnembedError:
        near = self._near(node)
        what = type(node).__name__.removesuffix("0").removesuffix("Backward")
        return UnembedError(
            f"{self.name}: {what} {does} the residual stream {near}, and is no linear layer, sum "
            "or norm, so that no rotation is known for this model"
        )

    def _near(self, node: Any) -> str:
        """Where a node lies, by the nearest marked module before it that is turned, or any."""
        seen, left = {node}, [node]
        while left:
            one = left.pop(0)
            for marks in (self.run.leaving, self.run.entering):
                if one in marks:
                    return f"after {marks[one].path}"
            for before, _number in one.next_functions:
                if before is not None and before not in seen:
                    seen.add(before)
                    left.append(before)
        return "at its start"


def _readers_of(run: _Run, leaves: Any) -> list[nn.Module] | None:
    """The linear layers that read what a norm gives, None where something else does too."""
    found, left = [], list(run.consumers.get(leaves, []))
    while left:
        node = left.pop()
        call = run.entering.get(node)
        if call is not None:
            if call.module in run.forms:
                return None
            found.append(call.module)
        elif type(node).__name__ in SUMS:
            return None
        else:
            left.extend(run.consumers.get(node, []))
    return found


def _shape(node: Any) -> tuple[int, ...]:
    """The shape of what a node gave."""
    return tuple(node._input_metadata[0].shape)


def _shape_of(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape) or (1,)


def _last(one: Any) -> int:
    """The last axis of a tensor, or of what a node gave; 1 for a number."""
    shape = tuple(one.shape) if isinstance(one, Tensor) else _shape(one)
    return shape[-1] if shape else 1
