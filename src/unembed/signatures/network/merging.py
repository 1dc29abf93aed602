"""Merging, subtracting and re-weighting of signatures, of heads and of whole networks alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import overload

from unembed.errors import UnembedError
from unembed.signatures import signature as of_heads
from unembed.signatures.network.signature import NetworkSignature, network_mismatch
from unembed.signatures.signature import Signature


@overload
def merge(a: Signature, b: Signature) -> Signature: ...
@overload
def merge(a: NetworkSignature, b: NetworkSignature) -> NetworkSignature: ...
def merge(
    a: Signature | NetworkSignature, b: Signature | NetworkSignature
) -> Signature | NetworkSignature:
    """The signature of the samples of both, as if they had come in one pass; it keeps a's name.

    A document in both counts as two, and norms are then debiased less. Facts that differ are
    joined. Raises UnembedError where the two do not compare, naming the first difference, or where
    they keep other things.
    """
    return _joined(a, b, of_heads.merge)


@overload
def subtract(a: Signature, b: Signature) -> Signature: ...
@overload
def subtract(a: NetworkSignature, b: NetworkSignature) -> NetworkSignature: ...
def subtract(
    a: Signature | NetworkSignature, b: Signature | NetworkSignature
) -> Signature | NetworkSignature:
    """The signature of a's samples without b's, whole documents among them; undoes ``merge``.

    Raises UnembedError where the two do not compare, or where b holds more than a.
    """
    return _joined(a, b, of_heads.subtract)


@overload
def scaled(a: Signature, weight: float) -> Signature: ...
@overload
def scaled(a: NetworkSignature, weight: float) -> NetworkSignature: ...
def scaled(a: Signature | NetworkSignature, weight: float) -> Signature | NetworkSignature:
    """The signature with every sample counted ``weight`` times, to be merged into a mixture.

    Raises UnembedError where the weight is not positive and finite.
    """
    if isinstance(a, Signature):
        return of_heads.scaled(a, weight)
    made = {part: of_heads.scaled(a.part(part), weight).state for part in a.states}
    return replace(a, states=made)


def _joined(
    a: Signature | NetworkSignature,
    b: Signature | NetworkSignature,
    join: Callable[[Signature, Signature], Signature],
) -> Signature | NetworkSignature:
    """Two signatures joined, of networks part by part."""
    if isinstance(a, Signature) and isinstance(b, Signature):
        return join(a, b)
    if isinstance(a, Signature):
        raise UnembedError(_of_part(a, b.name))
    if isinstance(b, Signature):
        raise UnembedError(_of_part(b, a.name))
    for one, other in ((a, b), (b, a)):
        for part in one.states:
            if part not in other.states:
                raise UnembedError(
                    f"{one.name} keeps part {part!r}, which {other.name} lacks: sketch both with "
                    "the same --modules"
                )
    for part in a.states:
        words = network_mismatch(a, b, part)
        if words is not None:
            raise UnembedError(words)
    made = {part: join(a.part(part), b.part(part)) for part in a.states}
    facts = next(iter(made.values())).facts
    return replace(a, states={part: one.state for part, one in made.items()}, facts=facts)


def _of_part(one: Signature, network: str) -> str:
    part = one.identity.part
    return (
        f"{one.name} is the signature of {part or 'a head'} and {network} of a whole network: join "
        f"{network}.part({part or 'head'!r})"
    )
