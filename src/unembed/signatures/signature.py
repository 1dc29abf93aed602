"""A task's signature: sums of sketched features, which merge, subtract and re-weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from unembed.errors import UnembedError, need
from unembed.short_repr import ShortRepr
from unembed.signatures.network.names import DEFAULT_PART as DEFAULT_PART
from unembed.signatures.sketches.sketch import SketchSpec
from unembed.signatures.state import SUMMED, State

Unit = Literal["token", "sequence"]
Fisher = Literal["empirical", "true"]

MOST_LETTERS = 24
LONGEST_FACT = 400
REMEDIES = {
    "part": "compare the same part of both: give --part",
    "vocab": "a sketch lives in one vocabulary",
    "dim": "sketch both on the same backbone",
    "construction": "sketch both with the same --construction",
    "m": "sketch both with the same --size",
    "seed": "sketch both with the same --seed",
    "unit": "a sample must be the same thing: sketch both with the same --unit",
    "fisher": "sketch both with the same --labels",
    "head_digest": "sketch both with the same output head",
    "model_digest": "sketch both on the same backbone",
    "tokenizer": "sketch both with the same tokenizer",
    "support": "restrict both to the same answer tokens",
    "modules": "sketch both with the same --modules",
    "backward": "run both backward passes in the same dtype",
}
ABSENT = {"support": "of all tokens", "part": "head", "modules": "head", "backward": "none"}
"""What a field is called where it is "", which is left out of files."""


@dataclass(frozen=True)
class Identity(ShortRepr):
    """Everything in which two signatures must agree to be compared (theory §7, §9).

    ``head_digest`` is that of the output head, ``model_digest`` that of the body, which gives the
    basis of the activations; ``tokenizer`` a digest too. ``support`` is a digest of the answer
    tokens that the head was restricted to, or "". Of a part of a network's signature ``part`` is
    its name, ``modules`` a digest of the names and shapes of the modules it is made of, and
    ``backward`` the dtype of the backward pass; all three are "" of the head, which no backward
    pass is needed for.
    """

    spec: SketchSpec
    unit: Unit
    fisher: Fisher
    head_digest: str
    model_digest: str
    tokenizer: str
    support: str = ""
    part: str = ""
    modules: str = ""
    backward: str = ""

    def plain(self) -> dict[str, Any]:
        """Plain values for files and keys; of those of a network, only what is not ""."""
        left_out = [name for name in OF_NETWORKS if not getattr(self, name)]
        return {name: value for name, value in asdict(self).items() if name not in left_out}


OF_NETWORKS = ("part", "modules", "backward")


def mismatch(
    a: Identity, b: Identity, names: tuple[str, str] = ("one signature", "the other")
) -> str | None:
    """The first field in which two identities differ, with both values and what to do; or None.

    Such as "a.safetensors has seed 1 and b.safetensors seed 2: sketch both with the same --seed".
    """
    ours, theirs = (
        {**asdict(x.spec), **{f.name: getattr(x, f.name) for f in fields(x) if f.name != "spec"}}
        for x in (a, b)
    )
    for field, remedy in REMEDIES.items():
        if ours[field] != theirs[field]:
            word = field.replace("_", " ")
            first, second = (
                (str(x[field]) if field == "part" else str(x[field])[:MOST_LETTERS])
                or ABSENT[field]
                for x in (ours, theirs)
            )
            return f"{names[0]} has {word} {first} and {names[1]} {word} {second}: {remedy}"
    return None


@dataclass(frozen=True)
class Signature(ShortRepr):
    """A task's state, with what it is a state of.

    ``facts`` are plain strings about where it came from (text, rules, model, versions); they are
    written into the file and compared with nothing.
    """

    name: str
    identity: Identity
    state: State
    facts: dict[str, str]

    def _phrases(self) -> Iterator[str]:
        yield self.name
        documents = self.state.documents
        yield f"{self.state.samples:,.0f} {self.identity.unit}s in {documents:,} documents"
        yield f"{self.identity.spec.construction} of m = {self.identity.spec.m:,}"
        yield f"{self.identity.fisher} Fisher"
        if "model" in self.facts:
            yield f"model {self.facts['model']}"


def merge(a: Signature, b: Signature) -> Signature:
    """The signature of the samples of both, as if they had come in one pass; it keeps a's name.

    A document in both counts as two, and norms are then debiased less. Facts that differ are
    joined. Raises UnembedError where the two do not compare, naming the first difference, or where
    they keep other things.
    """
    agree(a, b)
    _same_kinds(a, b)
    facts = {**b.facts, **a.facts}
    for key in a.facts.keys() & b.facts.keys():
        if a.facts[key] != b.facts[key]:
            both = f"{a.facts[key]}; {b.facts[key]}"
            facts[key] = both if len(both) <= LONGEST_FACT else "several"
    return replace(a, state=a.state + b.state, facts=facts)


def subtract(a: Signature, b: Signature) -> Signature:
    """The signature of a's samples without b's, whole documents among them; undoes ``merge``.

    Raises UnembedError where the two do not compare, or where b holds more than a.
    """
    agree(a, b)
    _same_kinds(a, b)
    return replace(a, state=a.state - b.state)


def scaled(a: Signature, weight: float) -> Signature:
    """The signature with every sample counted ``weight`` times, to be merged into a mixture.

    Norms stay debiased: the pairs within a document are counted by squared weights.
    Raises UnembedError where the weight is not positive and finite.
    """
    if not (np.isfinite(weight) and weight > 0):
        raise UnembedError(f"weight {weight} of {a.name} must be positive: leave it out instead")
    return replace(a, state=a.state.scaled(weight))


def agree(a: Signature, b: Signature) -> None:
    """Raise UnembedError in one line where two signatures do not compare."""
    difference = mismatch(a.identity, b.identity, (a.name, b.name))
    if difference:
        raise UnembedError(difference)


def refuse_empty(signature: Signature) -> None:
    """Raise UnembedError for a signature of no samples, of which there is no mean."""
    if not signature.state.weight.sum() > 0:
        raise UnembedError(
            f"{signature.name} holds 0 samples, of which nothing can be said: sketch a text, or "
            "subtract less of it"
        )


def check_name(name: str) -> None:
    """Raise UnembedError for a name that nobody would see."""
    if not name.strip():
        raise UnembedError(f"a task is named {name!r}, which nobody would see: give it a name")


def agree_all(signatures: Sequence[Signature]) -> None:
    """Raise UnembedError for one without name or samples, two of one name, one unlike the first."""
    for signature in signatures:
        need(signature, Signature, "give a network's part, as network.part('blocks')")
        check_name(signature.name)
        refuse_empty(signature)
    names = [signature.name for signature in signatures]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UnembedError(f"two signatures are named {twice[0]!r}: give each a name of its own")
    for other in signatures[1:]:
        agree(signatures[0], other)


def _same_kinds(a: Signature, b: Signature) -> None:
    """Raise UnembedError where one signature keeps what the other does not."""
    ours, theirs = _held(a.state), _held(b.state)
    if ours != theirs:
        raise UnembedError(
            f"{a.name} keeps {ours}, and {b.name} {theirs}: merge signatures that keep the same, "
            "or sketch one again"
        )


def _held(state: State) -> str:
    kinds = ", ".join(name for name in SUMMED if state.sums(name) is not None)
    return f"{kinds} in {len(state.weight)} folds and {len(state.block_weight)} blocks"
