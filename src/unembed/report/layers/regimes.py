"""Whether narrow decisions go with loss at each depth, as a section of the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unembed.decisions.layers.regimes import (
    NEAR_ZERO,
    PUBLISHED_LAST_RHO,
    PUBLISHED_MIDDLE_LAYERS,
    PUBLISHED_MIDDLE_RHO,
    PUBLISHED_POSITIONS,
    STRONG,
    LensRegimes,
    PenaltyRegimes,
    Regimes,
    SignTurn,
    Turn,
)
from unembed.decisions.layers.summary import LayersSummary
from unembed.report.layers.by_depth import Curve, Level, OverDepths, depth_figure
from unembed.report.layers.depths import measured
from unembed.report.parts.parts import Figure, Section, Table, table_of
from unembed.report.parts.wording import (
    capital,
    cell,
    count,
    listed,
    p_value,
    three,
)
from unembed.report.verdicts.layers import RHO, published_words, whole

PENALTY_WORDS = {
    "margin": ("minus the margin", "Minus the margin"),
    "cosine": ("the cosine penalty", "The cosine penalty of the leading tokens"),
    "fisher": ("the Fisher penalty", "The Fisher penalty of the leading tokens"),
}
"""What each penalty is called in a sentence, and at the head of its figure."""

MIDDLE, LAST = (
    f"{one:+.3g}".replace("-", "−") for one in (PUBLISHED_MIDDLE_RHO, PUBLISHED_LAST_RHO)
)
"""The published figures as they were printed."""

PUBLISHED = (
    f"Published (arXiv 2604.06767): ρ = {MIDDLE} at layers {PUBLISHED_MIDDLE_LAYERS[0]} to "
    f"{PUBLISHED_MIDDLE_LAYERS[1]} and {LAST} at the last, on {count(PUBLISHED_POSITIONS)} "
    "positions."
)


def regimes_section(summary: LayersSummary, regimes: Regimes) -> Section:
    """Rho of each penalty by depth and lens, the published figures, and what of them is found."""
    lead = (
        "Each penalty is large where candidates are close. Its rank correlation ρ with the model’s "
        "own loss, over positions, says whether a depth that is undecided is so where the model "
        f"will be wrong. {PUBLISHED} {published_words(regimes)} A depth counts as about zero where "
        f"ρ surely lies within {NEAR_ZERO:g} of 0, as strong above {STRONG:g}; the signs of all "
        "depths hold together."
    )
    return Section(
        "regimes",
        "Do narrow decisions go with loss?",
        lead,
        tuple(_figure(summary, regimes, name) for name in PENALTY_WORDS),
        (_regimes(regimes), _turns(regimes)),
        tuple(_tables(summary)),
        "Every ρ in numbers",
    )


def _figure(summary: LayersSummary, regimes: Regimes, penalty: str) -> Figure:
    curves = tuple(
        Curve(lens.lens, {one.depth: one.rho for one in lens.of(penalty).by_depth})
        for lens in regimes.lenses
    )
    shown = OverDepths(
        f"rho-{penalty}",
        PENALTY_WORDS[penalty][1],
        "Spearman’s ρ with the final loss. Bands are 95 % intervals over documents.",
        "ρ with the final loss",
        RHO,
        curves,
        summary.blocks,
        levels=(
            Level(PUBLISHED_MIDDLE_RHO, f"published: {MIDDLE} and {LAST}"),
            Level(PUBLISHED_LAST_RHO, f"published: {MIDDLE} and {LAST}"),
        ),
        zero=True,
    )
    return depth_figure(shown)


def _each(regimes: Regimes) -> Iterator[tuple[LensRegimes, PenaltyRegimes]]:
    for penalty in PENALTY_WORDS:
        for lens in regimes.lenses:
            yield lens, lens.of(penalty)


def _regimes(regimes: Regimes) -> Table:
    return table_of(
        "The three published regimes",
        list(_each(regimes)),
        {
            "penalty": lambda one: capital(PENALTY_WORDS[one[1].penalty][0]),
            "lens": lambda one: one[0].lens,
            "early, about zero": lambda one: one[1].early,
            "middle, negative": lambda one: one[1].middle,
            "last, strongly positive": lambda one: one[1].late,
            "the sign turns": lambda one: turns_in_words(one[1].sign_turns),
        },
    )


def turns_in_words(turns: Sequence[SignTurn]) -> str:
    """Between which depths a sign turns, and to which: ``to positive between 2 and 3``."""
    found = [f"to {one.sign_after} between {one.before} and {one.after}" for one in turns]
    return listed(found) if found else "nowhere"


def _turns(regimes: Regimes) -> Table:
    def of(turn: Turn | None, reason: str | None) -> tuple[str, ...]:
        if turn is None:
            return (f"none: {reason}", "–", "–", "–")
        orders = "all" if turn.exact else "drawn"
        return (
            whole(turn.depth),
            cell(turn.rise, RHO),
            p_value(turn.p),
            f"{count(turn.orders)} {orders}; at least {p_value(turn.least_p)}",
        )

    rows = tuple(
        (capital(PENALTY_WORDS[one.penalty][0]), lens.lens, *of(one.turn, one.turn_reason))
        for lens, one in _each(regimes)
    )
    return Table(
        "The clearest rise of ρ along the depth, against shuffled depths",
        ("penalty", "lens", "first depth after it", "rise", "p in a shuffle", "orders"),
        rows,
    )


def _tables(summary: LayersSummary) -> Iterator[Table]:
    for lens in measured(summary):
        rows = tuple(
            (
                str(row.depth),
                *(
                    cell(rho, three)
                    for one in row.correlations
                    for rho in (one.with_final, one.with_own)
                ),
            )
            for row in lens.rows
        )
        names = [one.penalty for one in lens.rows[0].correlations] if lens.rows else []
        head = tuple(
            f"{PENALTY_WORDS[name][0]}, {loss}" for name in names for loss in ("final", "own")
        )
        yield Table(
            f"ρ with the final loss and with the depth’s own, {lens.lens} lens, 95 % intervals",
            ("depth", *head),
            rows,
        )
