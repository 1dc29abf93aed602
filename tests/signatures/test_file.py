"""Signatures in files: what comes back, how large they are, and what is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save as tensors_as_bytes

from made_up.tasks import Task, language_like, signed, spec_of
from unembed.errors import UnembedError
from unembed.signatures.alignment.align import align
from unembed.signatures.file import (
    COMPACT_FILE,
    Dtype,
    as_bytes,
    export,
    from_bytes,
    load,
    save,
)
from unembed.signatures.sealed import OF_HEAD as KEY
from unembed.signatures.sealed import seal
from unembed.signatures.signature import Identity, Signature, merge, scaled, subtract
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.sketch import SketchSpec
from unembed.signatures.state import SUMMED, State, empty
from unembed.signatures.sums import Sums

A, B = (language_like(200, seed, tilt=0.3, per_document=4) for seed in (1, 2))


def signature(name: str, task: Task, m: int = 64, **how: int) -> Signature:
    facts = {"text": "a folder", "versions": "torch 2.13; θ"}
    return replace(signed(name, sketch_of(spec_of(task, m=m)), task, **how), facts=facts)


@pytest.fixture(scope="module")
def whole() -> Signature:
    return signature("task", A)


def same(a: Signature, b: Signature) -> None:
    assert (a.name, a.identity, a.facts) == (b.name, b.identity, b.facts)
    x, y = a.state, b.state
    assert (x.trace, x.documents) == (y.trace, y.documents)
    for field in ("weight", "weight_squared", "document_weight_squared", "block_weight", "hashes"):
        assert np.array_equal(getattr(x, field), getattr(y, field))
    for name in SUMMED:
        ours, theirs = x.sums(name), y.sums(name)
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert all(
                np.array_equal(p, q) for p, q in zip(*map(vars_of, (ours, theirs)), strict=True)
            )


def vars_of(record: object) -> list[np.ndarray]:
    return list(vars(record).values())


@pytest.mark.parametrize("blocks", [0, 32])
@pytest.mark.parametrize("first", [False, True])
def test_comes_back_bit_by_bit(blocks: int, first: bool, tmp_path: Path) -> None:
    written = signature("task", A, blocks=blocks)
    if not first:
        written = replace(written, state=replace(written.state, first=None, trace=None))
    save(written, tmp_path / "new" / "task.safetensors")
    read = load(tmp_path / "new" / "task.safetensors")
    same(written, read)
    assert (
        as_bytes(written) == as_bytes(read) == (tmp_path / "new" / "task.safetensors").read_bytes()
    )
    save(scaled(merge(written, read), 0.3), tmp_path / "task.safetensors")
    assert load(tmp_path / "task.safetensors").state.weight.sum() == pytest.approx(120)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_compact_file_is_as_small_as_it_says(dtype: Dtype, tmp_path: Path) -> None:
    """And the cosine moves by no more than the docstring of ``export`` says."""
    m = 4096
    full = [signature(name, task, m) for name, task in (("a", A), ("b", B))]
    read = []
    for one in full:
        folder = tmp_path / one.name
        folder.mkdir()
        path = export(one, folder, dtype=dtype)
        assert path == folder / COMPACT_FILE
        size = m * np.dtype(dtype).itemsize
        assert size < path.stat().st_size < size + 2048
        back = load(path)
        assert back.identity == one.identity
        assert back.state.samples == pytest.approx(one.state.samples)
        read.append(back)
    want, got = align(full), align(read)
    most = {"float32": 1e-6, "float16": 1e-4, "int8": 2e-3}[dtype]
    assert abs(want.joint.value[0, 1] - got.joint.value[0, 1]) < most
    np.testing.assert_allclose(got.joint.sketch_se, want.joint.sketch_se, rtol=0.3, atol=1e-3)
    assert got.activation is got.error is got.proxy is got.coupling is got.first_moment is None
    for ours, theirs in zip(got.tasks, want.tasks, strict=True):
        assert ours.participation_ratio == pytest.approx(theirs.participation_ratio, rel=1e-6)
        assert ours.residual is None
    assert np.isnan(got.joint.sampling_se[0, 1])
    assert align([full[0], read[1]]).joint.value[0, 1] == pytest.approx(
        want.joint.value[0, 1], abs=most
    )
    merge(read[0], read[1])


def test_a_signature_too_short_to_debias_is_not_exported(tmp_path: Path) -> None:
    alone = Task(A.error[:1], A.activation[:1], A.document[:1])
    with pytest.raises(UnembedError, match=r"task has too few samples to export \(n = 1"):
        export(signature("task", alone), tmp_path)


def test_no_flipped_byte_and_no_cut_gets_through(whole: Signature) -> None:
    data = as_bytes(whole)
    rng = np.random.default_rng(0)
    ends = 8 + int.from_bytes(data[:8], "little")
    at = [
        *range(12),
        *rng.integers(8, ends, 120).tolist(),
        *rng.integers(ends, len(data), 60).tolist(),
    ]
    for place in at:
        broken = bytearray(data)
        broken[place] ^= int(rng.integers(1, 256))
        with pytest.raises(UnembedError) as caught:
            from_bytes(bytes(broken), "x.safetensors")
        assert "\n" not in str(caught.value)
        assert "x.safetensors" in str(caught.value)
    for length in [
        0,
        1,
        7,
        8,
        9,
        ends - 1,
        ends,
        ends + 1,
        *rng.integers(0, len(data), 20).tolist(),
    ]:
        with pytest.raises(UnembedError, match=r"damaged|cut short|no safetensors"):
            from_bytes(data[:length], "x")
    with pytest.raises(UnembedError, match="damaged"):
        from_bytes(data + b"0", "x")


def forged(whole: Signature, tensors: dict[str, object], **changes: object) -> Signature:
    """A file whose seal is right, and its content wrong."""
    data = as_bytes(whole)
    made = {k: v for k, v in {**read_tensors(data), **tensors}.items() if v is not None}
    header = json.loads(
        json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"][KEY]
    )
    header.pop("sha256")
    header.update(changes)
    header["sha256"] = seal(header, made)
    return from_bytes(tensors_as_bytes(made, {KEY: json.dumps(header)}), "x")


@pytest.mark.parametrize(
    ("tensors", "changes", "words"),
    [
        ({"joint.total": np.zeros((2, 32))}, {}, "shape"),
        ({"joint.total": np.full((2, 64), np.nan)}, {}, "not finite"),
        ({"error.own": np.full(2, np.inf)}, {}, "not finite"),
        ({"joint.total": np.zeros((2, 64), np.float32)}, {}, "float32, not float64"),
        ({"joint.total": np.zeros((3, 64))}, {}, "damaged"),
        ({"joint.total": None}, {}, "no joint sums"),
        ({"joint.own": None}, {}, "joint.own"),
        ({"weight": np.zeros(2), "weight_squared": np.zeros(2)}, {}, "0 samples"),
        ({"weight": np.array([-5.0, 300.0])}, {}, "samples"),
        ({"weight": np.array([150.0, 60.0])}, {}, "200 samples in blocks, 210 in folds"),
        ({"weight_squared": np.array([0.0, 100.0])}, {}, "samples"),
        ({"document_weight_squared": np.array([1.0, 400.0])}, {}, "squares"),
        ({"document_weight_squared": None}, {}, "document_weight_squared"),
        ({"hashes": np.zeros(3)}, {}, "hashes are float64"),
        ({}, {"documents": 0}, "0 documents"),
        ({}, {"documents": 3}, "3 documents, and hashes of 50"),
        ({}, {"schema": 2}, "schema 2, this version reads 1"),
        ({}, {"spec": {"vocab": 60, "dim": 12, "m": 128}}, "m = 128"),
        ({}, {"spec": {"vocab": "sixty", "dim": 12}}, "damaged"),
        ({}, {"spec": {"vocab": 60, "dim": 12, "m": 65}}, "power of two"),
        ({}, {"spec": {"kind": 1}}, "damaged"),
        ({}, {"identity": {"unit": "token"}}, "fisher"),
        ({}, {"facts": 3}, "damaged"),
        ({}, {"trace": "much"}, "much"),
        ({}, {"stored": "compact"}, "damaged"),
    ],
)
def test_what_does_not_fit_is_refused(
    tensors: dict[str, object], changes: dict[str, object], words: str, whole: Signature
) -> None:
    assert forged(whole, {}).name == "task"
    with pytest.raises(UnembedError, match=words) as caught:
        forged(whole, tensors, **changes)
    assert "\n" not in str(caught.value)


def test_what_is_no_signature_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def refused(data: bytes | None, words: str) -> None:
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(UnembedError, match=words) as caught:
            load(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    refused(None, "does not exist")
    model = {"model.weight": np.zeros((4, 4), np.float32)}
    refused(tensors_as_bytes(model), "a safetensors file, but no signature")
    refused(tensors_as_bytes(model, {"format": "pt"}), "a safetensors file, but no signature")
    refused(b"", "no safetensors file")
    refused(b"some text, and more of it", "no safetensors file")
    refused((1 << 62).to_bytes(8, "little") + b"{" * 50, "claims a header of 4,611,686")
    refused((1 << 21).to_bytes(8, "little") + b"{" * 50, "claims a header of 2,097,152 bytes")
    refused((900).to_bytes(8, "little") + b"{}", "cut short within its header")
    refused((3).to_bytes(8, "little") + b"{1}", "damaged in its header")
    deep = b'{"a":' + b"[" * 100_000
    refused(len(deep).to_bytes(8, "little") + deep, "damaged in its header")
    path.unlink()
    path.mkdir()
    refused(None, "is a folder: give the signature's file in it")
    with pytest.raises(UnembedError, match="cannot be read"):
        load("a\0b")


def test_a_model_of_any_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(tensors_as_bytes({"w": np.zeros(1 << 19, np.float32)}))
    monkeypatch.setattr("unembed.signatures.file.from_bytes", lambda *_: pytest.fail("it was read"))
    with pytest.raises(UnembedError, match="no signature"):
        load(path)


def test_a_task_without_samples_is_refused_and_not_called_damaged(tmp_path: Path) -> None:
    """A run may stop before its first sample; what it leaves says so."""
    nothing = replace(signature("task", A), state=empty(64))
    less_itself = subtract(signature("task", A), signature("other", A))
    for one in (nothing, less_itself):
        for write in (save, export):
            with pytest.raises(UnembedError, match=r"^task holds 0 samples, .*subtract less"):
                write(one, tmp_path / "b.safetensors")
        with pytest.raises(UnembedError, match="0 samples have no mean"):
            one.state.mean("joint")
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.safetensors").write_bytes(as_bytes(nothing))
    with pytest.raises(UnembedError, match=r"a.safetensors holds 0 samples: sketch a text"):
        load(tmp_path / "a.safetensors")
    assert torch.get_default_dtype() == torch.float32


def test_the_bytes_of_a_heads_file_are_those_of_every_version_of_its_schema() -> None:
    """So that what lies beside a model, and a run that goes on, stay what they were."""
    weight = np.array([3.0, 2.0])
    sums = Sums(np.arange(32.0).reshape(2, 16), np.array([1.0, 2.0]), np.ones((2, 16)))
    state = State(
        joint=sums,
        activation=sums,
        error=None,
        first=None,
        weight=weight,
        weight_squared=weight,
        document_weight_squared=weight,
        block_weight=weight,
        trace=1.5,
        documents=5,
        hashes=np.arange(5, dtype=np.uint64),
    )
    identity = Identity(SketchSpec(7, 3, m=16), "token", "empirical", "a", "b", "c")
    data = as_bytes(Signature("task", identity, state, {"text": "of old"}))
    assert (
        hashlib.sha256(data).hexdigest()
        == "660abce8e9157ce0fd79744d92b2f12be26494fa26dbd0101c8c8ae410836912"
    )
    assert list(identity.plain()) == [
        "spec",
        "unit",
        "fisher",
        "head_digest",
        "model_digest",
        "tokenizer",
        "support",
    ]
