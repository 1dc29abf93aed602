"""What is said of two runs of layers, and that it is no more than the intervals allow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from made_up.layers import made_stack, make_layers_comparison
from unembed.decisions.layers.compare import LayersComparison
from unembed.decisions.layers.depth_changes import lens_change
from unembed.decisions.layers.settling_changes import settling_change
from unembed.report.depths.page import depths_page
from unembed.report.verdicts.depths import ranges, verdict
from unembed.stats.estimate import Estimate

FOUND = make_layers_comparison()


def settled(*ends: float | None) -> LayersComparison:
    """With this difference of the settling depth."""
    value, low, high = ends
    whole = FOUND.settling.everywhere
    mean = replace(whole.mean, difference=Estimate(value, low, high, n=9, documents=14))
    everywhere = replace(whole, mean=mean)
    return replace(FOUND, settling=replace(FOUND.settling, everywhere=everywhere))


def changed(*depths: tuple[float, float | None, float | None]) -> LayersComparison:
    """With these shares of changed tokens, depth by depth."""
    own = FOUND.own
    rows = tuple(
        replace(row, changed=Estimate(*ends, n=9, documents=14))
        for row, ends in zip(own.by_depth, depths, strict=True)
    )
    most = tuple(row.depth for row in rows if row.changed.value == max(d[0] for d in depths))
    return replace(FOUND, lenses=(replace(own, by_depth=rows, most=most), *FOUND.lenses[1:]))


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((0.4, 0.3, 0.5), "Decisions settle later, by 0.40 [0.30, 0.50] blocks."),
        ((-0.4, -0.5, -0.3), "Decisions settle earlier, by 0.40 [0.30, 0.50] blocks."),
        ((-0.02, -0.03, -0.01), "Decisions settle slightly earlier"),
        ((0.01, -0.02, 0.04), "Decisions settle as early as before, within ±0.040 blocks."),
        ((0.1, -0.2, 0.4), "too close to call: +0.1 [−0.2, +0.4] blocks"),
        ((0.1, None, None), "cannot be told without an interval"),
        ((0.0, 0.0, 0.0), "Decisions settle where they did."),
    ],
)
def test_settling_is_called_by_its_interval(ends: tuple[float, ...], words: str) -> None:
    assert words in verdict(settled(*ends)).sentence


def test_where_most_changed_is_a_depth_only_where_it_stands_out() -> None:
    low, high = (0.01, 0.005, 0.015), (0.2, 0.15, 0.25)
    one = verdict(changed(low, low, high, low, low)).sentence
    assert "Most leading tokens changed at depth 2 of 4: 20\u00a0% [15, 25]." in one
    two = verdict(changed(low, high, high, low, high)).sentence
    assert "at depths 1–2 and 4 of 4, which cannot be told apart" in two
    last = verdict(changed(low, low, low, low, high)).sentence
    assert "At every depth before, fewer leading tokens changed." in last
    assert "as many leading tokens changed at every depth" in verdict(changed(*[high] * 5)).sentence
    alone = verdict(changed(*[(0.2, None, None)] * 5)).sentence
    assert "cannot be told without an interval" in alone


def test_depths_in_words() -> None:
    assert ranges((3,), range(6)) == "3"
    assert ranges((0, 1, 2, 5), range(6)) == "0–2 and 5"
    assert ranges((0, 4, 8), (0, 4, 8)) == "0–8"


def test_a_model_and_itself() -> None:
    stack = made_stack(14)
    none = replace(
        FOUND,
        lenses=(lens_change(stack, stack, resamples=20),),
        settling=settling_change(stack, stack, stack.target * 0, stack.target * 0, resamples=20),
        notes=(),
    )
    found = verdict(none)
    assert found.sentence == (
        f"None of the {stack.n} decisions changed. Nor did a leading token at any depth before. "
        "Decisions settle where they did."
    )
    assert found.change == "What changed: no leading token at any depth."
    assert found.next == ""


def test_the_points_name_what_is_read() -> None:
    found = verdict(FOUND)
    assert "end in one decision, and of all positions" in found.change
    assert "and the others part after it." in found.change
    assert "hold for all depths at once" in found.trust
    assert "Mind the notes below" in found.trust
    assert "fitted lens" not in found.trust
    assert verdict(replace(FOUND, n_documents=1)).trust.startswith("Trust: all of it is 1 document")


def test_the_last_depth_alone_does_not_tell_where() -> None:
    pair = [made_stack(14, depths=(4,), change=size) for size in (0.0, 0.5)]
    marks = pair[0].target * 0
    one = replace(
        FOUND,
        depths=(4,),
        lenses=(lens_change(*pair, resamples=20),),
        settling=settling_change(*pair, marks, marks, resamples=20),
    )
    found = verdict(one)
    assert found.sentence.endswith("which does not tell how decisions form.")
    assert "depth 4" not in found.change
    assert depths_page(one, title="x").count("</figure>") > 5


def test_without_a_position_nothing_is_told() -> None:
    nothing = made_stack(3).rows(made_stack(3).doc < 0)
    empty = replace(FOUND, lenses=(lens_change(nothing, nothing, resamples=20),))
    assert verdict(empty).sentence.startswith("No decision could be compared")
