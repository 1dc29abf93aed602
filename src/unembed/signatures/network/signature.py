"""A text's signature for a whole network: a state of each part, and each part as a signature."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property, reduce

import numpy as np

from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr
from unembed.signatures.network.modules import DEPTH, HEAD, KIND, NetworkModule
from unembed.signatures.network.names import BLOCKS, FULL, MODULE
from unembed.signatures.signature import Identity, Signature, Unit, mismatch
from unembed.signatures.sketches.sketch import SketchSpec
from unembed.signatures.state import SUMMED, WEIGHTS, State
from unembed.signatures.sums import Sums

MOST_LISTED = 8


def module_part(module: NetworkModule) -> str:
    """What the part of one module is called."""
    return HEAD if module.name == HEAD else f"{MODULE}{module.name}"


def parts_kept(modules: Sequence[NetworkModule]) -> tuple[str, ...]:
    """The parts that a signature of these modules keeps, in order of their names' meaning."""
    depths = sorted({one.depth for one in modules if one.depth is not None})
    return (
        FULL,
        BLOCKS,
        *(f"{DEPTH}{depth}" for depth in depths),
        *(module_part(module) for module in modules),
    )


def kinds_of(modules: Sequence[NetworkModule]) -> tuple[str, ...]:
    """The kinds of some modules, such as "q_proj", whose parts are added up when asked for."""
    return tuple(dict.fromkeys(one.kind for one in modules if one.name != HEAD))


def check_part(name: str, parts: Sequence[str], whose: str) -> None:
    """Raise UnembedError for a part that there is not, with the nearest of those that there are."""
    if name in parts:
        return
    near = get_close_matches(name, parts, MOST_LISTED, 0.4)
    listed = [*near, *(part for part in parts if part not in near)][:MOST_LISTED]
    raise UnembedError(
        f"{whose} has no part {name!r}: give one of its {len(parts)}, {', '.join(listed)}"
        + " …" * (len(listed) < len(parts))
    )


@dataclass(frozen=True)
class NetworkSignature(ShortRepr):
    """A text's states by part of the network, all of one pass, with what they are states of.

    Parts are "full", "blocks", "depth:N" of each depth, "module:NAME" of each module and "head";
    all hold the same samples. ``head`` is the sketch of the output head, whose construction, size
    and seed every module's own maps are drawn from. ``precision`` is the dtype of the backward
    pass. Raises ValueError for a part of none of the modules, and for parts of other samples.
    Source: theory §12.
    """

    name: str
    head: SketchSpec
    unit: Unit
    head_digest: str
    model_digest: str
    tokenizer: str
    support: str
    precision: str
    modules: tuple[NetworkModule, ...]
    states: Mapping[str, State]
    facts: dict[str, str]

    def __post_init__(self) -> None:
        if not self.states:
            raise ValueError("no parts")
        unknown = self.states.keys() - set(parts_kept(self.modules))
        if unknown:
            raise ValueError(f"{min(unknown)!r} is no part of its {len(self.modules)} modules")
        first = next(iter(self.states.values()))
        for part, state in self.states.items():
            alike = all(np.array_equal(getattr(state, x), getattr(first, x)) for x in WEIGHTS)
            if not alike or state.documents != first.documents:
                raise ValueError(f"part {part!r} holds other samples")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its modules, such as "q_proj", whose parts ``part`` adds up."""
        return kinds_of([one for one in self.modules if module_part(one) in self.states])

    @property
    def parts(self) -> tuple[str, ...]:
        """The name of every part that ``part`` gives."""
        return (*self.states, *(f"{KIND}{kind}" for kind in self.kinds))

    def part(self, name: str) -> Signature:
        """One part as a signature, which compares with the same part of other texts.

        Of "kind:q_proj" the state is the sum of its modules'; their norms leave out the pairs of
        samples of one document within each module, and not between two, which add nothing on
        average over the maps. The part of the head is the signature that ``sketch`` gives.
        Raises UnembedError for a part that there is not, with the nearest that there are.
        """
        return Signature(self.name, self.identity(name), self._state(name), self.facts)

    def identity(self, name: str) -> Identity:
        """What a part must agree in with another to be compared with it."""
        plain = Identity(
            self.head,
            self.unit,
            "empirical",
            self.head_digest,
            self.model_digest,
            self.tokenizer,
            self.support,
        )
        if name == HEAD:
            return plain
        digest = modules_digest(self.modules_of(name))
        return replace(plain, part=name, modules=digest, backward=self.precision)

    def modules_of(self, name: str) -> tuple[NetworkModule, ...]:
        """The modules that a part is made of. Raises UnembedError as ``part`` does."""
        check_part(name, self._parts, self.name)
        return tuple(
            one
            for one in self.modules
            if name in (FULL, BLOCKS, module_part(one))
            or name == f"{DEPTH}{one.depth}"
            or (name == f"{KIND}{one.kind}" and one.name != HEAD)
        )

    @cached_property
    def _parts(self) -> tuple[str, ...]:
        return self.parts

    def _state(self, name: str) -> State:
        if name in self.states:
            return self.states[name]
        return together([self.states[module_part(one)] for one in self.modules_of(name)])

    def _phrases(self) -> Iterator[str]:
        state = next(iter(self.states.values()))
        depths = {one.depth for one in self.modules} - {None}
        yield self.name
        yield f"{state.samples:,.0f} {self.unit}s in {state.documents:,} documents"
        yield f"{len(self.modules):,} modules in {len(depths):,} depths"
        yield f"{self.head.construction} of m = {self.head.m:,}"
        yield f"{self.precision} backward"
        if "model" in self.facts:
            yield f"model {self.facts['model']}"


def together(states: Sequence[State]) -> State:
    """The state of features that are the sums of these, which are of the same samples.

    ``own`` lacks the pairs between two of them, which add nothing on average over their maps.
    """
    joined: dict[str, Sums | None] = {}
    for name in SUMMED:
        sums = [one for state in states if (one := state.sums(name)) is not None]
        joined[name] = reduce(Sums.__add__, sums) if len(sums) == len(states) else None
    # Marginals of several modules are of spaces of their own, and their sum is no marginal.
    if len(states) > 1:
        joined |= {"activation": None, "error": None}
    traces = [state.trace for state in states]
    trace = None if None in traces else sum(one for one in traces if one is not None)
    return replace(states[0], **joined, trace=trace)  # type: ignore[arg-type]


def modules_digest(modules: Sequence[NetworkModule]) -> str:
    """A SHA-256 of the names and shapes of some modules, in their order."""
    plain = [[one.name, one.outputs, one.inputs] for one in modules]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def network_mismatch(a: NetworkSignature, b: NetworkSignature, part: str) -> str | None:
    """The first thing in which a part of two texts differs, in words, or None: as ``mismatch``.

    Of other modules it says how many each has, and one that the other lacks.
    """
    ours, theirs = ({(m.name, m.outputs, m.inputs) for m in x.modules_of(part)} for x in (a, b))
    words = mismatch(a.identity(part), b.identity(part), (a.name, b.name))
    if words is None or ours == theirs or " modules " not in words:
        return words
    lacking = min(ours ^ theirs)
    owner, other = (a, b) if lacking in ours else (b, a)
    return (
        f"{a.name} has {len(ours)} modules in part {part!r} and {b.name} {len(theirs)}: "
        f"{other.name} lacks {lacking[0]} ({lacking[1]} x {lacking[2]}) of {owner.name}, so sketch "
        "both with the same --modules"
    )
