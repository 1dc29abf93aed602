"""Signatures of networks in files, told apart from those of heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from made_up.network_signatures import network_signed, network_task
from unembed.errors import UnembedError
from unembed.signatures.file import as_bytes, export, from_bytes, load, save
from unembed.signatures.network.file import (
    load_network,
    network_as_bytes,
    network_from_bytes,
    save_network,
)
from unembed.signatures.network.merging import scaled, subtract
from unembed.signatures.network.signature import NetworkSignature
from unembed.signatures.sealed import OF_HEAD, OF_NETWORK, file_kind

A = network_task(24, 1)


@pytest.fixture(scope="module")
def whole() -> NetworkSignature:
    return network_signed("task", A)


@pytest.mark.parametrize("blocks", [0, 32])
def test_comes_back_bit_by_bit(blocks: int, tmp_path: Path) -> None:
    written = network_signed("task", A, blocks=blocks)
    path = tmp_path / "task.safetensors"
    save_network(written, path)
    read = load_network(path)
    assert path.read_bytes() == network_as_bytes(read) == network_as_bytes(written)
    assert (read.name, read.head, read.modules, read.facts) == (
        written.name,
        written.head,
        written.modules,
        written.facts,
    )
    assert list(read.states) == list(written.states)
    for part in written.parts:
        assert as_bytes(read.part(part)) == as_bytes(written.part(part))
    save_network(scaled(read, 0.3), path)
    assert load_network(path).part("head").state.weight.sum() == pytest.approx(7.2)


def test_a_part_is_a_signature_with_a_file_of_its_own(
    whole: NetworkSignature, tmp_path: Path
) -> None:
    for part in whole.parts:
        path = tmp_path / "part.safetensors"
        save(whole.part(part), path)
        assert load(path).identity == whole.part(part).identity
        compact = load(export(whole.part(part), path, dtype="int8"))
        assert compact.identity == whole.part(part).identity
    assert b'"part' not in as_bytes(whole.part("head")).replace(b"\\", b"")
    assert b'"part' in as_bytes(whole.part("full")).replace(b"\\", b"")


def test_head_and_network_are_told_apart(whole: NetworkSignature, tmp_path: Path) -> None:
    network, head = tmp_path / "n.safetensors", tmp_path / "h.safetensors"
    save_network(whole, network)
    save(whole.part("head"), head)
    assert (file_kind(network), file_kind(head)) == (OF_NETWORK, OF_HEAD)
    with pytest.raises(
        UnembedError, match=r"n.safetensors is the signature of a whole network.*--part"
    ):
        load(network)
    with pytest.raises(
        UnembedError, match=r"h.safetensors is the signature of an output head alone"
    ):
        load_network(head)
    with pytest.raises(UnembedError, match="is a folder"):
        load_network(tmp_path)
    save_network(whole, head)
    assert file_kind(head) == OF_NETWORK


def test_no_flipped_byte_and_no_cut_gets_through(whole: NetworkSignature) -> None:
    data = network_as_bytes(whole)
    rng = np.random.default_rng(0)
    ends = 8 + int.from_bytes(data[:8], "little")
    places = [*range(10), *rng.integers(8, ends, 30), *rng.integers(ends, len(data), 15)]
    for place in map(int, places):
        broken = bytearray(data)
        broken[place] ^= int(rng.integers(1, 256))
        with pytest.raises(UnembedError) as caught:
            network_from_bytes(bytes(broken), "x.safetensors")
        assert "\n" not in str(caught.value)
        assert "x.safetensors" in str(caught.value)
    for length in (0, 7, ends - 1, ends, len(data) - 1):
        with pytest.raises(UnembedError, match=r"damaged|cut short|no safetensors"):
            network_from_bytes(data[:length], "x")
    with pytest.raises(UnembedError, match=r"signature of a whole network"):
        from_bytes(data, "x")


def test_a_text_without_samples_is_refused(whole: NetworkSignature, tmp_path: Path) -> None:
    nothing = subtract(whole, whole)
    with pytest.raises(UnembedError, match="task holds 0 samples"):
        save_network(nothing, tmp_path / "x.safetensors")
    with pytest.raises(UnembedError, match="x holds 0 samples"):
        network_from_bytes(network_as_bytes(nothing), "x")
    assert not list(tmp_path.iterdir())
    assert replace(whole, name="other").part("full").name == "other"
