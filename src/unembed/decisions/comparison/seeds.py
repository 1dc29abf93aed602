"""Several seeds on a side of a comparison: what the choice of seeds adds to every interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import fmean
from typing import Any, TypeVar, cast

from unembed.decisions.comparison.flips import FlipGroup, Flips, TokenFlips
from unembed.decisions.comparison.movement import Sharpening, verdict_of
from unembed.decisions.comparison.prediction import ChanceBin
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.stats import student
from unembed.stats.estimate import Estimate
from unembed.stats.forms import whole
from unembed.stats.student import sampled_part

NO_P = "several seeds: read the interval"
"""Why there is no p: of pooled rows, one position counts as often as there are pairs."""

UNDEFINED = "no interval: undefined in a single pair of runs"

Record = TypeVar("Record")


def over_seeds(
    pooled: ComparisonSummary, singles: Sequence[ComparisonSummary], seeds: tuple[int, int]
) -> ComparisonSummary:
    """The figures of the pooled pairs, with the spread between seeds in every interval (theory §4).

    ``singles`` are the summaries of the single pairs, those of the first run before first. The
    intervals are widened by ``widened``; what was decided from them, the verdict on sharpening and
    the shares of the total net, is decided again. No p is left, see ``NO_P``.
    """
    wide = widened(pooled, singles, seeds)
    why = _net_unshared(wide.flips)
    groups: dict[str, Any] = {
        field.name: tuple(_unshared(group, why) for group in getattr(wide, field.name))
        for field in dataclasses.fields(wide)
        if why is not None and field.name.startswith("by_")
    }
    check = _sharpening(wide.movement.sharpening)
    movement = dataclasses.replace(wide.movement, sharpening=check)
    return dataclasses.replace(wide, **groups, movement=movement, seeds=seeds)


def widened(pooled: Record, singles: Sequence[Record], seeds: tuple[int, int]) -> Record:
    """A record with each ``Estimate`` inside it widened by the spread between seeds.

    With theta[b, a] the values of the ``B x A`` single pairs, var the sample variance and t the
    97.5 % quantile of Student's t with B - 1 or A - 1 degrees of freedom, each end moves to
    ``value -+ sqrt((value - end)^2 + half^2)``::

        half^2 = t^2 var_b(mean_a theta) / B  +  t^2 var_a(mean_b theta) / A

    A side with one run adds nothing: nothing is known of its spread. Seeds and documents are two
    independent samples; what depends on both is in both parts, so that the interval errs on the
    wide side. With two or three seeds it is wide, and may reach past what the statistic can be,
    such as a share below 0. Where a single pair leaves the statistic undefined there is no
    interval, and so for what a single pair does not hold: its chances of a flip may lie in other
    bins, or in none. Counts, histograms, and the tokens that gained and lost most
    stay those of the pooled rows; p-values go. Source: theory §4.
    """
    return cast(Record, _walk(pooled, list(singles), seeds))


def runs_in_words(seeds: tuple[int, int]) -> str | None:
    """How many runs were compared and what counts then mean; None with one on each side."""
    before, after = seeds
    if seeds == (1, 1):
        return None
    return f"{before} × {after} runs; counts are totals over the {before * after} pairs"


def _walk(pooled: Any, singles: list[Any], seeds: tuple[int, int]) -> Any:
    """``widened`` of anything inside a record; a single pair that does not hold it gives None."""
    if isinstance(pooled, Estimate):
        return _wider(pooled, singles, seeds)
    if isinstance(pooled, tuple):
        fit = [one if one is not None and _alike(one, pooled) else None for one in singles]
        return tuple(
            _walk(item, [None if one is None else one[i] for one in fit], seeds)
            for i, item in enumerate(pooled)
        )
    if isinstance(pooled, dict):
        return {
            key: _walk(item, [None if one is None else one.get(key) for one in singles], seeds)
            for key, item in pooled.items()
        }
    if not dataclasses.is_dataclass(pooled) or isinstance(pooled, type):
        return pooled
    inside: dict[str, Any] = {
        field.name: _walk(
            getattr(pooled, field.name),
            [None if one is None else getattr(one, field.name) for one in singles],
            seeds,
        )
        for field in dataclasses.fields(pooled)
    }
    if isinstance(pooled, Flips):
        nothing = Estimate(None, n=pooled.clustered_mcnemar_p.n, reason=NO_P)
        inside |= {"mcnemar_p": None, "clustered_mcnemar_p": nothing}
    if isinstance(pooled, TokenFlips):
        inside["sign_p"] = None
    return dataclasses.replace(pooled, **inside)


def _alike(one: tuple[Any, ...], pooled: tuple[Any, ...]) -> bool:
    """Whether there are as many, and of chances those of the same bins."""
    limits = [
        [(item.low, item.high) for item in some if isinstance(item, ChanceBin)]
        for some in (one, pooled)
    ]
    return len(one) == len(pooled) and limits[0] == limits[1]


def _wider(pooled: Estimate, singles: list[Any], seeds: tuple[int, int]) -> Estimate:
    value, low, high = pooled.value, pooled.low, pooled.high
    if value is None or low is None or high is None:
        return pooled
    theta = [None if one is None else one.value for one in singles]
    known = [one for one in theta if one is not None]
    if len(known) < len(theta):
        return dataclasses.replace(pooled, low=None, high=None, reason=UNDEFINED)
    after = seeds[1]
    rows = [known[start : start + after] for start in range(0, len(known), after)]
    columns = [fmean(column) for column in zip(*rows, strict=True)]
    half2 = sampled_part([fmean(row) for row in rows]) + sampled_part(columns)
    low, high = student.widened(value, low, high, half2)
    return dataclasses.replace(pooled, low=low, high=high)


def _net_unshared(total: Flips) -> str | None:
    """Why shares of the total net mean nothing over seeds, or None where they do."""
    net = whole(float(total.net))
    low, high = total.accuracy_difference.low, total.accuracy_difference.high
    if low is not None and high is not None and low <= 0 <= high:
        return f"the total net is {net}, and its interval over seeds holds zero"
    return None


def _unshared(group: FlipGroup, why: str | None) -> FlipGroup:
    if group.share_of_net.value is None:
        return group
    return dataclasses.replace(
        group, share_of_net=Estimate(None, n=group.share_of_net.n, reason=why)
    )


def _sharpening(check: Sharpening) -> Sharpening:
    """The verdict of ``compare_margins`` from widened intervals; undecided where one is missing."""
    raw, left = check.raw_change, check.share_left
    if left.value is None:
        return check
    if raw.low is not None and raw.high is not None and raw.low <= 0 <= raw.high:
        reason = "the median margin's change is not told from 0"
        nothing = Estimate(None, n=check.n, reason=reason)
        return dataclasses.replace(check, share_left=nothing, verdict="none")
    if raw.low is None or left.low is None or left.high is None:
        return dataclasses.replace(check, verdict="undecided")
    verdict = verdict_of((left.low, left.high), raw.low > 0)
    return dataclasses.replace(check, verdict=verdict)
