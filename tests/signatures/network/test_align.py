"""Alignments along a network: the same as part by part, with what is told of its places."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from made_up.network_signatures import (
    modules,
    network_alignments,
    network_signed,
    network_task,
)
from unembed.errors import UnembedError
from unembed.signatures.alignment.align import align
from unembed.signatures.network.align import EstimatedPart, align_networks, halves, places_of
from unembed.signatures.network.identities import alignment_of_blocks, full_between
from unembed.signatures.network.records import NetworkAlignments, joint_of
from unembed.signatures.network.signature import NetworkSignature

TASKS = [network_task(60, seed, tilt=0.5) for seed in range(3)]


@pytest.fixture(scope="module")
def signatures() -> list[NetworkSignature]:
    return [network_signed(n, t, m=256) for n, t in zip("abc", TASKS, strict=True)]


@pytest.fixture(scope="module")
def found(signatures: list[NetworkSignature]) -> NetworkAlignments:
    return align_networks(signatures)


@pytest.mark.parametrize("debias", [True, False])
def test_every_part_is_what_it_is_alone(signatures: list[NetworkSignature], debias: bool) -> None:
    found = align_networks(signatures, debias=debias)
    assert [one.part for one in found.parts] == list(signatures[0].parts)
    for one in found.parts:
        alone = align([each.part(one.part) for each in signatures], debias=debias)
        assert one.joint is not None
        for field, matrix in vars(one.joint).items():
            np.testing.assert_array_equal(matrix, getattr(alone.joint, field))
        assert one.first_moment is not None
        assert alone.first_moment is not None
        np.testing.assert_array_equal(one.first_moment.value, alone.first_moment.value)
        upper = np.triu_indices(3, 1)
        assert one.mean.value == pytest.approx(np.nanmean(one.joint.value[upper]))
    assert found.tasks[0].documents == 30


def test_places_follow_the_network(signatures: list[NetworkSignature]) -> None:
    assert places_of(signatures[0]) == ("depth:0", "depth:1", "head")
    of = (replace(modules()[0], name="lm.project", depth=None, kind="project"), *modules()[1:])
    other = network_signed("a", network_task(8, 0, of=of), of=of)
    assert places_of(other) == ("depth:0", "depth:1", "module:lm.project", "head")


def test_it_is_the_same_when_read_again(found: NetworkAlignments) -> None:
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert NetworkAlignments.from_json(plain).to_json() == found.to_json()
    plain["parts"][0]["squared_norm"] = [1.0]
    with pytest.raises(ValueError, match="squared_norm of shape"):
        NetworkAlignments.from_json(plain)
    names = set(found.to_arrow()["name"].to_pylist())
    assert {"blocks.a.b", "depth:1.mean", "off_diagonal.c"} <= names
    assert len(names) == len(found.to_arrow())
    assert "5 modules" in repr(found)


def test_profile_weights_and_bound_are_those_of_the_norms(found: NetworkAlignments) -> None:
    v, w = found.profile(0), found.profile(1)
    np.testing.assert_allclose(v**2, [found.of(one).squared_norm[0] for one in found.places])
    assert found.weights(0, 1).sum() == pytest.approx(1)
    # Both are estimates of one number, from other random maps.
    from_places = alignment_of_blocks(joint_of(found, found.places, (0, 1)), v, w)
    blocks = found.estimate("blocks", (0, 1))
    assert blocks.low is not None
    assert blocks.high is not None
    assert blocks.low < from_places < blocks.high
    shares = [found.off_diagonal[task].value for task in (0, 1)]
    assert found.full_between(0, 1) == full_between(float(blocks), *shares)  # type: ignore[arg-type]
    unknown = replace(
        found, off_diagonal=(replace(found.off_diagonal[0], value=None, reason="x"),) * 3
    )
    assert unknown.full_between(0, 1) is None


def test_the_share_between_modules_is_that_of_the_exact_fisher() -> None:
    """Of plug-in norms, which are those of the samples that are there."""
    names = [one.name for one in modules()]
    inside = 0
    for seed in range(8):
        task = TASKS[0]
        exact = []
        grams = np.stack([task.gradient(name) @ task.gradient(name).T for name in names])
        exact = 1 - (grams**2).sum() / (grams.sum(0) ** 2).sum()
        made = [network_signed(n, task, m=256, seed=seed) for n in "ab"]
        share = align_networks(made, debias=False).off_diagonal[0]
        assert share.value is not None
        assert share.low is not None
        assert share.high is not None
        inside += share.low**2 <= exact <= share.high**2
    assert inside >= 7


def test_halves_of_one_task_are_alike(signatures: list[NetworkSignature]) -> None:
    state = signatures[0].states["head"]
    sums, weight = state.joint, state.weight
    m = sums.total.shape[1]
    across = sums.total[0] @ sums.total[1] / m / weight.prod()
    squares = [
        (sums.total[h] @ sums.total[h] / m - sums.own[h])
        / (weight[h] ** 2 - state.document_weight_squared[h])
        for h in (0, 1)
    ]
    assert halves(state) == pytest.approx(across / np.sqrt(np.prod(squares)))
    assert 0.5 < halves(state) < 1.5
    one = network_signed("a", network_task(2, 1))
    assert np.isnan(halves(one.states["full"]))


def test_the_most_and_least_alike_places_are_told_where_they_can_be() -> None:
    """Tasks drift apart with depth; two of the same law are alike everywhere."""
    deep = network_alignments(3)
    mean = deep.extremes_of(None)
    assert "depth:0" in mean.most
    assert "depth:5" in mean.least
    assert not set(mean.most) & set(mean.least)
    same = align_networks([network_signed(n, TASKS[0], m=256) for n in "ab"])
    ends = same.extremes_of((0, 1))
    assert set(ends.most) & set(ends.least)
    without = align_networks([network_signed(n, TASKS[i], blocks=0) for i, n in enumerate("ab")])
    assert without.extremes_of((0, 1)).most == without.places


def test_what_does_not_compare_is_refused(signatures: list[NetworkSignature]) -> None:
    with pytest.raises(UnembedError, match="1 signature has nothing to compare with"):
        align_networks(signatures[:1])
    less = network_signed("less", TASKS[1], m=256, of=modules()[1:])
    with pytest.raises(UnembedError, match="has 5 modules in part 'full' and less 4"):
        align_networks([signatures[0], less])
    with pytest.raises(UnembedError, match="two signatures are named 'a'"):
        align_networks([signatures[0], signatures[0]])
    with pytest.raises(UnembedError, match="backward float32 and b backward bfloat16"):
        align_networks([signatures[0], replace(signatures[1], precision="bfloat16")])


def test_a_run_is_kept_and_found_again(signatures: list[NetworkSignature], tmp_path: Path) -> None:
    kept = align_networks(signatures, out=tmp_path / "run")
    assert kept.to_json() == align_networks(signatures, out=tmp_path / "run").to_json()
    with pytest.raises(UnembedError, match="another run"):
        align_networks(signatures[:2], out=tmp_path / "run")


@pytest.mark.slow
def test_errors_of_means_and_of_differences_of_places_are_as_said() -> None:
    """Over other documents of the same tasks, and other maps."""
    values: dict[str, list[float]] = {"mean": [], "difference": []}
    errors: dict[str, list[float]] = {"mean": [], "difference": []}
    for seed in range(60):
        states = []
        for task in range(3):
            drawn = network_task(80, 3 * seed + task, tilt=0.5, law=task)
            states.append(network_signed("x", drawn, m=256, seed=seed).states)
        parts = [
            EstimatedPart.of([one[part] for one in states], np.eye(3, dtype=bool), True)
            for part in ("depth:0", "head")
        ]
        ratio = parts[0].ratio
        first, last = (one.pair(0, 1) for one in parts)
        values["difference"].append(first.value - last.value)
        errors["difference"].append(first.error_of_difference(last, ratio))
        values["mean"].append(parts[0].mean.value)
        errors["mean"].append(parts[0].mean.error(ratio))
    for name, some in values.items():
        assert 0.75 < np.mean(errors[name]) / np.std(some) < 1.35, name
