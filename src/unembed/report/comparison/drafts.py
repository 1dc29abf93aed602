"""Whether the second model pays as a draft of the first, as a section of a comparison's page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unembed.decisions.comparison.drafts import (
    DraftSummary,
    DraftUnderSampling,
    best_in_words,
    cost_in_words,
)
from unembed.report.parts.drawing import Chart, Spec, draw, heading
from unembed.report.parts.marks import (
    CURVES,
    band,
    dots,
    interval_fields,
    line,
    plain_axis,
    quantity,
    reference,
)
from unembed.report.parts.parts import Figure, Key, Section, Table, table_of
from unembed.report.parts.wording import (
    capital,
    cell,
    count,
    counted,
    decimal,
    fine_share,
    full,
)

LOOKS = ("line", "dashed")
"""Keys of a chart's curves."""


def draft_section(drafts: DraftSummary | None) -> Section | None:
    """How many drafted tokens pay under each sampler, where that was asked."""
    if drafts is None:
        return None
    lead = (
        "In speculative decoding the second model drafts some tokens and one pass of the first "
        "checks them; what comes out is the first model’s. A pass of the draft costs "
        f"{cost_in_words(drafts)}; checking several tokens is taken to cost one pass. Rounds "
        "follow each other along the text, and those that might pass the end of a window are left "
        "out."
    )
    return Section(
        "drafts",
        "Does it pay as a draft?",
        lead,
        tuple(_figures(drafts.samplings)),
        (_best(drafts.samplings),),
    )


def _best(samplings: Sequence[DraftUnderSampling]) -> Table:
    def at_best(one: DraftUnderSampling, field: str) -> str:
        best = one.at_best
        return f"none: {one.best.reason}" if best is None else cell(getattr(best, field), decimal)

    n = samplings[0].acceptance.n
    return table_of(
        f"The number of drafted tokens that pays most, n = {count(n)}, with 95 % intervals",
        samplings,
        {
            "sampler": lambda one: one.name,
            "accepted": lambda one: cell(one.acceptance, fine_share),
            "drafted tokens": best_in_words,
            "tokens a pass": lambda one: at_best(one, "tokens"),
            "if positions were alike": lambda one: at_best(one, "tokens_independent"),
            "speed-up": lambda one: at_best(one, "speedup"),
        },
    )


def _figures(samplings: Sequence[DraftUnderSampling]) -> Iterator[Figure]:
    """Speed-up by drafted tokens, two samplers a chart."""
    for first in range(0, len(samplings), 2):
        some = samplings[first : first + 2]
        names = " and ".join(one.name for one in some)
        yield Figure(
            f"draft-{first // 2 + 1}",
            f"Speed-up of decoding, {names}",
            "How many times as fast decoding is as without a draft, which is the line at 1. Bands "
            "are 95 % intervals over documents.",
            _chart(some),
            tuple(Key(look, one.name) for look, one in zip(LOOKS, some, strict=False)),
            tuple(map(_lengths, some)),
        )


def _chart(samplings: Sequence[DraftUnderSampling]) -> Chart:
    most = len(samplings[0].lengths)
    x_axis = plain_axis("drafted tokens a round", grid=False, form="d")
    steps = [drafted for drafted in range(1, most + 1) if most <= 12 or drafted % 4 == 0]
    channels = {
        "x": quantity(x_axis | {"values": steps}, domain=[1, max(2, most)], nice=False),
        "y": quantity(plain_axis(None, grid=True, form="~g"), zero=False),
    }
    layers: list[Spec] = [reference("y", 1.0, channels["y"], {})]
    for one, look in zip(samplings, CURVES, strict=False):
        rows: list[Spec] = [
            {
                "x": length.drafted,
                "tip": f"{one.name}, {counted(length.drafted, 'drafted token')}\n"
                f"{full(length.speedup, decimal)} times as fast",
            }
            | interval_fields(length.speedup, "y")
            for length in one.lengths
            if length.speedup.value is not None
        ]
        layers += [
            band(rows, channels, {"opacity": 0.22, "color": look["color"]}),
            line(rows, channels, {"strokeWidth": 2.4} | look),
            dots(rows, channels, look["color"], 40),
        ]
    return draw(
        {"title": heading("times as fast as without a draft"), "layer": layers},
        "Speed-up of decoding by drafted tokens",
    )


def _lengths(one: DraftUnderSampling) -> Table:
    return table_of(
        f"{capital(one.name)}: accepted {full(one.acceptance, fine_share)}",
        one.lengths,
        {
            "drafted tokens": lambda length: count(length.drafted),
            "tokens a pass": lambda length: cell(length.tokens, decimal),
            "if positions were alike": lambda length: cell(length.tokens_independent, decimal),
            "speed-up": lambda length: cell(length.speedup, decimal),
        },
    )
