"""A network's signature: its parts, what they compare with, and how two are merged."""

from __future__ import annotations

from dataclasses import replace

import jaxtyping
import numpy as np
import pytest

from made_up.network_signatures import M, modules, network_signed, network_task
from unembed.errors import UnembedError
from unembed.signatures.alignment.align import align
from unembed.signatures.network.merging import merge, scaled, subtract
from unembed.signatures.network.modules import NetworkModule
from unembed.signatures.network.signature import NetworkSignature, network_mismatch, together
from unembed.signatures.signature import Signature, agree
from unembed.signatures.state import SUMMED, WEIGHTS

A, B = (network_task(40, seed) for seed in (1, 2))


@pytest.fixture(scope="module")
def a() -> NetworkSignature:
    return network_signed("a", A)


@pytest.fixture(scope="module")
def b() -> NetworkSignature:
    return network_signed("b", B)


def test_parts_are_those_of_its_modules(a: NetworkSignature) -> None:
    assert a.parts == (
        "full",
        "blocks",
        "depth:0",
        "depth:1",
        "module:model.layers.0.q_proj",
        "module:model.layers.0.down_proj",
        "module:model.layers.1.q_proj",
        "module:model.layers.1.down_proj",
        "head",
        "kind:q_proj",
        "kind:down_proj",
    )
    for part in a.parts:
        assert a.part(part).state.sums("joint") is not None
    assert [x.name for x in a.modules_of("kind:q_proj")] == [
        "model.layers.0.q_proj",
        "model.layers.1.q_proj",
    ]
    assert {x.depth for x in a.modules_of("depth:1")} == {1}
    assert a.modules_of("full") == a.modules_of("blocks") == a.modules
    assert "4 modules" not in repr(a)
    assert "5 modules in 2 depths" in repr(a)


def test_blocks_is_the_sum_of_its_modules(a: NetworkSignature) -> None:
    """And depths, with the head, add up to it; so do mean gradients to the full network's."""
    singles = [part for part in a.states if part.startswith("module:") or part == "head"]
    depths = ["depth:0", "depth:1", "head"]
    for parts in (singles, depths):
        made = together([a.states[part] for part in parts])
        for kind in ("joint", "first"):
            ours, whole = made.sums(kind), a.states["blocks"].sums(kind)
            assert ours is not None
            assert whole is not None
            np.testing.assert_allclose(ours.total, whole.total, rtol=1e-4, atol=1e-3)
        assert made.activation is made.error is None
    kinds = together([a.part(f"kind:{kind}").state for kind in a.kinds] + [a.states["head"]])
    np.testing.assert_allclose(
        kinds.joint.total, a.states["blocks"].joint.total, rtol=1e-4, atol=1e-3
    )


def test_the_head_is_the_signature_of_a_head(a: NetworkSignature) -> None:
    identity = a.part("head").identity
    assert (identity.part, identity.modules, identity.backward) == ("", "", "")
    assert identity.plain().keys().isdisjoint({"part", "modules", "backward"})
    agree(a.part("head"), Signature("head", identity, a.states["head"], {}))
    plain = a.part("depth:1").identity.plain()
    assert (plain["part"], plain["backward"]) == ("depth:1", "float32")


def test_an_unknown_part_is_quoted_with_the_nearest(a: NetworkSignature) -> None:
    with pytest.raises(
        UnembedError, match=r"a has no part 'depth:7': give one of its 11, depth:"
    ) as x:
        a.part("depth:7")
    assert "\n" not in str(x.value)
    with pytest.raises(UnembedError, match=r"'kind:head'"):
        a.part("kind:head")
    with pytest.raises(UnembedError, match=r"module:model.layers.0.q_proj, "):
        a.part("module:layers.0.q_proj")


def test_other_parts_modules_and_dtypes_do_not_compare(
    a: NetworkSignature, b: NetworkSignature
) -> None:
    def words(one: Signature, other: Signature) -> str:
        with pytest.raises(UnembedError) as caught:
            align([one, other])
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert words(a.part("full"), b.part("blocks")) == (
        "a has part full and b part blocks: compare the same part of both: give --part"
    )
    assert "a has part head and b part depth:0" in words(a.part("head"), b.part("depth:0"))
    less = network_signed("b", B, of=modules()[1:])
    assert "modules" in words(a.part("blocks"), less.part("blocks"))
    assert network_mismatch(a, less, "blocks") == (
        "a has 5 modules in part 'blocks' and b 4: b lacks model.layers.0.q_proj (6 x 6) of a, so "
        "sketch both with the same --modules"
    )
    assert network_mismatch(a, less, "depth:1") is None
    align([a.part("depth:1"), less.part("depth:1")])
    rough = replace(b, precision="bfloat16")
    assert words(a.part("full"), rough.part("full")) == (
        "a has backward float32 and b backward bfloat16: run both backward passes in the same dtype"
    )
    align([a.part("head"), rough.part("head")])
    other = replace(b, unit="token")
    assert "a has unit sequence and b unit token" in words(a.part("full"), other.part("full"))
    seeded = network_signed("b", B, seed=3)
    assert "a has seed 0 and b seed 3" in words(a.part("full"), seeded.part("full"))


def test_a_network_in_place_of_a_signature_is_told_what_to_give(
    a: NetworkSignature, b: NetworkSignature, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Outside of tests nothing else looks at the types.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UnembedError, match=r"a NetworkSignature is no Signature: give a network's"):
        align([a, b])  # type: ignore[list-item]


def test_merge_and_subtract_are_those_of_each_part(
    a: NetworkSignature, b: NetworkSignature
) -> None:
    both = merge(a, b)
    assert both.name == "a"
    assert both.facts["text"] == "a; b"
    left = subtract(both, b)
    for part in a.states:
        assert both.states[part].documents == 40
        for field in WEIGHTS:
            assert np.array_equal(getattr(left.states[part], field), getattr(a.states[part], field))
        for kind in SUMMED:
            ours, was = left.states[part].sums(kind), a.states[part].sums(kind)
            assert (ours is None) == (was is None)
            if ours is not None and was is not None:
                np.testing.assert_allclose(ours.total, was.total, atol=1e-8 * abs(was.total).max())
    half = scaled(a, 0.5)
    assert half.part("full").state.weight.sum() == 20
    with pytest.raises(UnembedError, match="positive"):
        scaled(a, -1.0)
    wider = NetworkModule("model.layers.0.q_proj", 6, 7, 0, "q_proj")
    other = replace(b, modules=(wider, *modules()[1:]))
    with pytest.raises(
        UnembedError, match=r"lacks model.layers.0.q_proj \(6 x 6\) of a, so sketch"
    ):
        merge(a, other)
    with pytest.raises(UnembedError, match="keeps part 'depth:0', which b lacks"):
        merge(a, network_signed("b", B, of=modules()[2:]))
    with pytest.raises(
        UnembedError, match=r"a is the signature of a head and b of a whole network"
    ):
        merge(a.part("head"), b)  # type: ignore[call-overload]
    assert merge(a.part("head"), b.part("head")).state.documents == 40


def test_parts_of_nothing_or_of_other_samples_are_no_signature(
    a: NetworkSignature, b: NetworkSignature
) -> None:
    with pytest.raises(ValueError, match="no parts"):
        replace(a, states={})
    with pytest.raises(ValueError, match="'depth:5' is no part of its 5 modules"):
        replace(a, states={**a.states, "depth:5": a.states["full"]})
    with pytest.raises(ValueError, match="part 'full' holds other samples"):
        replace(a, states={"head": a.states["head"], "full": merge(a, b).states["full"]})


def test_a_part_compares_as_the_module_does_alone(a: NetworkSignature, b: NetworkSignature) -> None:
    """The alignment of a module is that of its exact Fishers, to the sketch's error."""
    m = 1024
    ours, theirs = (network_signed(n, t, m=m) for n, t in (("a", A), ("b", B)))
    for part in ("module:model.layers.1.q_proj", "full", "blocks"):
        names = [x.name for x in ours.modules_of(part)]
        grams = [
            [np.stack([p.gradient(n) @ q.gradient(n).T for n in names]) for q in (A, B)]
            for p in (A, B)
        ]

        def product(gram: np.ndarray, part: str = part) -> float:
            squares = gram.sum(0) ** 2 if part == "full" else (gram**2).sum(0)
            return float(squares.mean())

        exact = product(grams[0][1]) / np.sqrt(product(grams[0][0]) * product(grams[1][1]))
        found = align([ours.part(part), theirs.part(part)], debias=False).joint
        assert abs(found.value[0, 1] - exact) < 4 * found.sketch_se[0, 1] + 1e-6
        assert 0 < found.sketch_se[0, 1] < 0.2


def test_modules_are_told_by_name_and_shape() -> None:
    first, *rest = modules()
    wider = NetworkModule(first.name, first.outputs, 7, first.depth, first.kind)
    a = network_signed("a", A)
    other = replace(a, modules=(wider, *rest), name="b")
    assert a.identity("full").modules != other.identity("full").modules
    assert a.identity("depth:1") == other.identity("depth:1")
    assert a.head.m == M
