"""Tasks by their signatures' files, each under a name of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unembed.errors import UnembedError
from unembed.runs.manifest import Facts
from unembed.signatures.file import as_bytes, load
from unembed.signatures.network.file import load_network
from unembed.signatures.network.modules import HEAD
from unembed.signatures.network.names import DEFAULT_PART
from unembed.signatures.network.signature import NetworkSignature, network_mismatch
from unembed.signatures.reading.sketcher import FILE
from unembed.signatures.sealed import OF_NETWORK, file_kind
from unembed.signatures.signature import Signature

Loaded = Signature | NetworkSignature


def file_of(path: Path) -> Path:
    """The signature's own file, where a folder of an audit that holds one was given."""
    return path / FILE if (path / FILE).is_file() else path


def load_any(path: Path) -> Loaded:
    """The signature of a head, a part or a whole network in a file, or in an audit's folder."""
    file = file_of(path)
    return load_network(file) if file_kind(file) == OF_NETWORK else load(file)


def load_all(files: Sequence[str | Path], part: str | None = None) -> list[Signature]:
    """The signatures of some files, or of folders of audits that hold one.

    Of networks' files a ``part`` of each. Raises UnembedError as ``loaded`` and ``parts_of`` do.
    """
    return parts_of(loaded(files), part)


def loaded(files: Sequence[str | Path]) -> list[tuple[str, Loaded]]:
    """Signatures of any kind with their files; two that bear one name are called by their files.

    Raises UnembedError as ``load`` does.
    """
    found = [(Path(file), load_any(Path(file))) for file in files]
    names = [one.name for _path, one in found]
    return [
        (str(path), replace(one, name=str(path)) if names.count(one.name) > 1 else one)
        for path, one in found
    ]


def parts_of(given: Sequence[tuple[str, Loaded]], part: str | None) -> list[Signature]:
    """One part of each of some signatures, which are given with where they came from.

    Without a ``part`` networks give ``DEFAULT_PART``, and signatures of heads and of parts
    themselves. Raises UnembedError in one line where a part is not there, where networks and
    others are mixed and no part is named, and where networks' modules differ.
    """
    networks = [(where, one) for where, one in given if isinstance(one, NetworkSignature)]
    others = [(where, one) for where, one in given if isinstance(one, Signature)]
    if part is None and networks and others:
        where, other = others[0]
        raise UnembedError(
            f"{networks[0][0]} is the signature of a whole network and {where} of "
            f"{_of(other)}: give --part {other.identity.part or HEAD}"
        )
    for where, one in others:
        if part is not None and part != (one.identity.part or HEAD):
            raise UnembedError(
                f"{where} is the signature of {_of(one)} and has no part {part!r}: sketch its text "
                f"with --network, or give --part {one.identity.part or HEAD}"
            )
    wanted = DEFAULT_PART if part is None else part
    for _where, network in networks[1:]:
        words = network_mismatch(networks[0][1], network, wanted)
        if words is not None:
            raise UnembedError(words)
    return [one if isinstance(one, Signature) else one.part(wanted) for _where, one in given]


def networks_of(given: Sequence[tuple[str, Loaded]]) -> list[NetworkSignature]:
    """The signatures of whole networks among some."""
    return [one for _where, one in given if isinstance(one, NetworkSignature)]


def _of(signature: Signature) -> str:
    part = signature.identity.part
    return f"part {part!r} of a network" if part else "an output head alone"


def key_of(signatures: Sequence[Signature], **options: Any) -> dict[str, Any]:
    """The plain values that a result of these signatures, made with these options, depends on."""
    return {
        "names": [one.name for one in signatures],
        "signatures": [hashlib.sha256(as_bytes(one)).hexdigest() for one in signatures],
        **options,
    }


def facts_of(signatures: Sequence[Signature]) -> Facts:
    """What all of them share, and the text of each, for the page."""
    identity = signatures[0].identity
    spec = identity.spec
    models = sorted({one.facts.get("model", "unknown") for one in signatures})
    rows = [
        ("Model", ", ".join(models)),
        ("Output head", f"{spec.vocab:,} x {spec.dim:,}, {identity.head_digest[:12]}"),
        ("Sketch", f"{spec.construction}, m = {spec.m:,}, seed {spec.seed}"),
        ("Fisher", f"{identity.fisher}, unit {identity.unit}"),
        *((one.name, one.facts.get("text", "")) for one in signatures),
    ]
    if identity.part:
        rows.append(("Part of the network", identity.part))
        rows.append(("Backward pass", identity.backward))
    if identity.support:
        rows.append(("Softmax", f"over answer words alone, {identity.support[:12]}"))
    return tuple(rows)
