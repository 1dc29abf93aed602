"""What each depth already knows, lens by lens, as a section of the page."""

from __future__ import annotations

from collections.abc import Callable

from unembed.decisions.layers.depth_rows import DepthRow
from unembed.decisions.layers.summary import LayersSummary, LensSummary
from unembed.report.layers.by_depth import Curve, OverDepths, depth_figure
from unembed.report.parts.parts import Figure, Section, Table, table_of
from unembed.report.parts.wording import Wording, cell, count, decimal, share, size
from unembed.stats.estimate import Estimate

LENS_WORDS = {
    "normed": "by the model’s own way from the last block to the head, its norm taken anew",
    "raw": "by the head alone",
    "fitted": (
        "by an affine map onto the head’s input, fitted on half of the documents and measured on "
        "the others"
    ),
}
"""How each lens reads a depth."""


def measured(summary: LayersSummary) -> list[LensSummary]:
    """The lenses that were measured."""
    return [one for one in summary.lenses if one.reason is None]


def curves_of(
    summary: LayersSummary, figure: Callable[[DepthRow], Estimate | None]
) -> tuple[Curve, ...]:
    """A figure of each depth under every lens.

    An axis keeps to the other lenses: without a norm, raw values can be of another size.
    """
    lenses = measured(summary)
    found = []
    for lens in lenses:
        values = ((row.depth, figure(row)) for row in lens.rows)
        at = {depth: value for depth, value in values if value is not None}
        found.append(Curve(lens.lens, at, lens.lens != "raw" or len(lenses) == 1))
    return tuple(found)


def depths_section(summary: LayersSummary) -> Section:
    """Agreement, accuracy, loss, margin and divergence by depth."""
    lenses = measured(summary)
    lead = (
        f"Depth 0 is what enters the first of {count(summary.blocks)} blocks, depth ℓ the residual "
        "stream after block ℓ. A lens turns it into logits: "
        + "; ".join(f"{one.lens}, {LENS_WORDS[one.lens]}" for one in lenses)
        + "."
    )
    for one in summary.lenses:
        if one.reason is not None:
            lead += f" The {one.lens} lens was not measured: {one.reason}."
    return Section(
        "depths",
        "What each depth already knows",
        lead,
        tuple(figures(summary)),
        folded=tuple(_table(one) for one in lenses),
        more="Every depth in numbers",
    )


def agreement_figure(summary: LayersSummary) -> Figure:
    """The share of decisions that a depth already makes as the last one does."""
    return _figure(
        summary,
        ("agreement", "Decides as the last depth", "share of positions with the final token"),
        "How often a depth leads with the token that the model decides for. Bands are 95 % "
        "intervals over documents.",
        lambda row: row.agreement,
        share,
    )


def figures(summary: LayersSummary) -> list[Figure]:
    """The other figures by depth."""
    bands = "Bands are 95 % intervals over documents."
    return [
        _figure(
            summary,
            ("accuracy", "Accuracy", "share of positions with the target"),
            f"How often a depth leads with the token that the text goes on with. {bands}",
            lambda row: row.accuracy,
            share,
        ),
        _figure(
            summary,
            ("loss", "Loss", "nats"),
            f"Minus the log-probability that a depth gives to the target. {bands}",
            lambda row: row.nll_nats,
            decimal,
        ),
        _figure(
            summary,
            ("margin", "Median margin", "logits"),
            "By how much a depth’s first token leads. An early depth may be sure and wrong. "
            f"{bands}",
            lambda row: row.margin_quantiles["50"],
            decimal,
            zero=True,
        ),
        _figure(
            summary,
            ("kl", "KL divergence to the final distribution", "nats"),
            f"How far the final distribution is from a depth’s: KL(final ‖ depth). {bands}",
            lambda row: row.kl_nats,
            decimal,
            zero=True,
        ),
        _figure(
            summary,
            ("entropy", "Entropy", "nats"),
            f"How spread out a depth’s distribution of the next token is. {bands}",
            lambda row: row.entropy_nats,
            decimal,
            zero=True,
        ),
        _figure(
            summary,
            ("acceptance", "Acceptance as a draft", "Σ min of the two probabilities"),
            "The chance that a token drawn from a depth’s distribution is kept by speculative "
            f"decoding. {bands}",
            lambda row: row.acceptance,
            share,
        ),
    ]


def _figure(
    summary: LayersSummary,
    names: tuple[str, str, str],
    caption: str,
    figure: Callable[[DepthRow], Estimate | None],
    form: Wording,
    *,
    zero: bool = False,
) -> Figure:
    name, title, unit = names
    curves = curves_of(summary, figure)
    return depth_figure(
        OverDepths(name, title, caption, unit, form, curves, summary.blocks, zero=zero)
    )


def _table(lens: LensSummary) -> Table:
    def quantile(name: str) -> Callable[[DepthRow], str]:
        return lambda row: cell(row.margin_quantiles[name], decimal)

    return table_of(
        f"Under the {lens.lens} lens, {size(lens.n_positions, lens.n_documents)}; 95 % intervals",
        lens.rows,
        {
            "depth": lambda row: str(row.depth),
            "as the last": lambda row: cell(row.agreement, share),
            "accuracy": lambda row: cell(row.accuracy, share),
            "loss, nats": lambda row: cell(row.nll_nats, decimal),
            "entropy, nats": lambda row: cell(row.entropy_nats, decimal),
            "KL, nats": lambda row: cell(row.kl_nats, decimal),
            "acceptance": lambda row: cell(row.acceptance, share),
            "median margin": quantile("50"),
            "5 % margin": quantile("5"),
            "95 % margin": quantile("95"),
            "median scale-free margin": lambda row: cell(row.median_relative_distance, decimal),
            "median rank of the final token": lambda row: cell(row.median_final_rank, decimal),
        },
    )
