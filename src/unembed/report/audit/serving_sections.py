"""The sections of an audit's page on what a server changes: other batches, another engine."""

from __future__ import annotations

from unembed.decisions.audit.batch_noise import BatchNoise
from unembed.decisions.audit.logprob_gap import LogprobGap
from unembed.report.audit import charts
from unembed.report.parts.drawing import draw
from unembed.report.parts.parts import Figure, Key, Section, Table, estimates_table, table_of
from unembed.report.parts.wording import (
    Wording,
    between,
    cell,
    count,
    counted,
    decimal,
    point,
    points,
    share,
    whole_percent,
)
from unembed.report.verdicts.audit import noise_words
from unembed.stats.estimate import Estimate


def batching_section(noise: BatchNoise) -> Section:
    """Which greedy tokens another batch changes, and which margins to recompute against it."""
    lead = (
        f"The text was read in {counted(noise.plans, 'further batch plan')}: other companions, "
        f"sizes and padding, body and head in {noise.dtype} as the model itself runs. "
        f"{noise_words(noise)}"
    )
    if noise.flips.value:
        lead += (
            " The rule that foretells them is fitted on half of the documents and tried on the "
            "others, both ways."
        )
    if noise.dtype == "float32":
        lead += (
            " The checkpoint is in float32 and was read so, in which batches change next to "
            "nothing; --dtype bfloat16 shows what a server in bfloat16 would do."
        )
    rows: dict[str, tuple[Estimate, Wording] | str] = {
        "decisions with other logits": (noise.moved, share),
        "decisions with another greedy token": _some(noise.flips),
        "foretold of them": (noise.predicted, share),
        "seen less foretold": (noise.difference, points),
        "positions that change in some plan": _some(noise.ever),
    }
    caption = (
        "The narrower a decision, in spacings of "
        f"{noise.dtype} at its top logit, the likelier another batch changes it. Bars are 95 % "
        "intervals over documents."
    )
    figure = Figure(
        "batches",
        "Flips by margin",
        caption,
        draw(charts.noise(noise.bins), "Share of decisions that flip, by margin"),
        (Key("circle", "seen"), Key("diamond", "foretold")),
        (
            table_of(
                "Flips by margin in rounding steps",
                noise.bins,
                {
                    "margin": lambda one: between(one.low, one.high),
                    "decisions": lambda one: count(one.n),
                    "seen": lambda one: cell(one.observed, share),
                    "foretold": lambda one: cell(one.predicted, share),
                },
            ),
        ),
    )
    gates = dict.fromkeys(one.gate for one in noise.recompute)
    recompute = tuple(_recompute(noise, gate) for gate in gates)
    if recompute:
        lead += (
            " Published for one 8B model in bfloat16 (arXiv 2605.30218): 0.48\u00a0% of the "
            "decisions change, and 18.6\u00a0% are recomputed for full determinism."
        )
    figures = (figure,) if noise.flips.value else ()
    table = estimates_table(
        f"A decision is a position in one of {noise.plans} plans", rows, "share of"
    )
    return Section("batches", "What another batch changes", lead, figures, (table, *recompute))


def _recompute(noise: BatchNoise, gate: str) -> Table:
    whose = "margins of float32 logits" if gate == "float32" else f"margins of its {gate} logits"

    def bound(estimate: Estimate, form: Wording) -> str:
        """In words; the largest flip's has no interval, which its row explains."""
        return point(estimate, form) if estimate.low is None else cell(estimate, form)

    return table_of(
        f"What to recompute in order to catch the changes, by {whose}. 100\u00a0% is up to the "
        "widest seen; how many of other documents' changes a margin catches is measured",
        [one for one in noise.recompute if one.gate == gate],
        {
            "caught": lambda one: whole_percent(one.caught),
            "margins up to": lambda one: bound(one.margin, decimal),
            "of positions": lambda one: bound(one.positions, share),
            "caught elsewhere": lambda one: cell(one.elsewhere, share),
        },
    )


def logprobs_section(gap: LogprobGap, name: str, title: str, lead: str) -> Section:
    """How far other log-probabilities of the targets lie from the exact ones."""
    rows: dict[str, tuple[Estimate, Wording] | str] = {
        "mean difference": (gap.mean, decimal),
        "mean size of it": (gap.mean_size, decimal),
        "standard deviation": (gap.deviation, decimal),
        **{
            f"{quantile}\u00a0% quantile": (one, decimal) for quantile, one in gap.quantiles.items()
        },
    }
    if gap.largest is not None:
        rows["the largest"] = decimal(gap.largest)
    positions = estimates_table(
        f"{gap.engine} less exact, nats a position, {counted(gap.n, 'position')}",
        rows,
        "difference",
    )
    ratios: dict[str, tuple[Estimate, Wording] | str] = {
        "ratios at a position outside 0.9 to 1.1": _some(gap.outside),
        "products over a document outside 0.9 to 1.1": _some(gap.products_outside),
        **{
            f"product over a document, {quantile}\u00a0% quantile": (one, decimal)
            for quantile, one in gap.products.items()
        },
    }
    over = estimates_table("Ratios of probabilities", ratios, "ratio")
    if gap.left_out:
        lead += (
            f" {counted(gap.left_out, 'position')} are left out: the engine gave none there, or "
            "read more of the row than a window holds (--context)."
        )
    return Section(name, title, lead, (), (positions, over))


def _some(estimate: Estimate) -> tuple[Estimate, Wording] | str:
    """A share, which has no interval where nothing was found."""
    return f"none of {count(estimate.n)}" if estimate.value == 0 else (estimate, share)
