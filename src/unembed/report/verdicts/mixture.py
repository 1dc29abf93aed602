"""The verdict on a mixture: how much of each source, or why that cannot be said."""

from __future__ import annotations

from unembed.report.parts.wording import PERCENT, count, counted, full, listed, share, two
from unembed.report.verdicts.samples import (
    few_documents,
    rounded_up,
    times_to_narrow,
)
from unembed.report.verdicts.verdict import Verdict
from unembed.selection.mixing.record import MOSTLY, Mixture, Share
from unembed.selection.mixing.text import by_weight, residual_words

MOST_NAMED = 4
"""Sources that the sentence names; the rest it counts."""
VAGUE = 0.4
"""Of a weight's interval: from this width on, a weight is no advice."""
NARROW = 0.1
"""Half of the interval of a weight that is worth asking for."""


def of_record(record: Mixture) -> Verdict:
    """The verdict on a mixture."""
    return verdict(record)


def verdict(mixture: Mixture) -> Verdict:
    """The shares where they are known and make the target, else what is lacking."""
    return Verdict(
        sentence(mixture),
        f"Quality: {_quality(mixture)}",
        f"Found: {_found(mixture)}",
        f"Trust: {_trust(mixture)}",
        _next(mixture),
    )


def sentence(mixture: Mixture) -> str:
    """The sources used with their shares, where the intervals allow to name them."""
    target, residual = mixture.target, mixture.residual
    if residual.value is None:
        return f"What {target} is made of cannot be told: {residual.reason}."
    used = _used(mixture)
    if not used:
        return f"No mixture of these sources pushes as {target} would."
    if mixture.mostly_left:
        return (
            f"No mixture of these sources makes {target}: {residual_words(residual)} of it is "
            "expressed by none."
        )
    makes = residual.high is not None and residual.high <= MOSTLY
    if vague(mixture):
        if makes:
            return f"{target} can be mixed from these sources, but how much of each is not known."
        return f"How much of each source to mix for {target} is not known."
    parts = [f"{full(one.weight, share)} {one.name}" for one in used[:MOST_NAMED]]
    if len(used) > MOST_NAMED:
        parts.append(counted(len(used) - MOST_NAMED, "more source"))
    though = "" if makes else ", which may leave most of it unexpressed"
    return f"{target} is best mixed from {listed(parts)}{though}."


def vague(mixture: Mixture) -> bool:
    """Whether a weight is known too roughly to be named."""
    return any(_width(one) > VAGUE for one in _used(mixture))


def _quality(mixture: Mixture) -> str:
    residual, target = mixture.residual, mixture.target
    if residual.value is None:
        return "there is no mixture to judge."
    if mixture.mostly_left:
        return f"poor: look for a source of what is left of {target}."
    left = residual_words(residual)
    if residual.low is not None and residual.low <= 0:
        return f"nothing of {target} is surely left that no mixture of these expresses: {left}."
    return f"of {target}, {left} is left that no mixture of these expresses."


def _found(mixture: Mixture) -> str:
    """Which sources are surely in the mixture and which may be left out; the weights' sum."""
    used = _used(mixture)
    if not used:
        return f"none of {counted(len(mixture.shares), 'source')} has a weight."
    sure = [one.name for one in used if (one.weight.low or 0.0) > 0]
    unsure = [one.name for one in used if one.name not in sure]
    parts = [f"{count(len(used))} of {counted(len(mixture.shares), 'source')} used"]
    parts.append(f"surely part of it: {_some(sure)}" if sure else "no single one is surely needed")
    if sure and unsure:
        parts.append(f"may be left out: {_some(unsure)}")
    return (
        f"{'; '.join(parts)}. The weights summed to {full(mixture.total, two)} before they were "
        "made 1, about 1 for a plain blend."
    )


def _trust(mixture: Mixture) -> str:
    """Whether the samples suffice, and how many more it takes."""
    few = few_documents(min([mixture.documents, *(one.documents for one in mixture.shares)]))
    if mixture.residual.value is None:
        return "the samples do not suffice; the reasons are below."
    amount = (
        f"{counted(mixture.samples, 'sample')} of {mixture.target} in "
        f"{counted(mixture.documents, 'document')}"
    )
    if mixture.residual.high is not None and mixture.residual.high < 0:
        return (
            "the samples are not independent: what is left comes out below 0. Mind the notes below."
        )
    if mixture.mostly_left:
        return few or f"the samples suffice to say so ({amount})."
    widest = max(mixture.shares, key=_width)
    low, high = widest.weight.low, widest.weight.high
    if low is None or high is None:
        return f"the samples ({amount}) do not suffice: a weight has no interval. {few}".strip()
    span = f"{100 * low:.0f} to {100 * high:.0f}{PERCENT}"
    half = (high - low) / 2
    if half <= NARROW:
        mind = " Mind the notes below." if mixture.warnings else ""
        return few or f"the samples suffice ({amount}): each share is known within ±10 pp.{mind}"
    times = count(rounded_up(times_to_narrow(half, NARROW)))
    more = f"±10 pp takes {times} times as many or more, unless sources replace each other."
    return f"the samples do not suffice ({amount}): {widest.name} may be {span}. {few or more}"


def _next(mixture: Mixture) -> str:
    if mixture.mostly_left:
        return "unembed index query INDEX TARGET"
    few = few_documents(min([mixture.documents, *(one.documents for one in mixture.shares)]))
    if mixture.residual.value is None or few or max(map(_width, mixture.shares)) > 2 * NARROW:
        by = "" if mixture.by == "joint" else f" --by {mixture.by}"
        return f"unembed mix TARGET SOURCES --model MODEL{by} --max-positions N -o RUN"
    return "unembed compare MODEL TRAINED TEXT -o RUN" if _used(mixture) else ""


def _used(mixture: Mixture) -> list[Share]:
    return [one for one in by_weight(mixture) if (one.weight.value or 0.0) > 0]


def _width(one: Share) -> float:
    """Of a weight's interval; all of it where it has none."""
    if one.weight.low is None or one.weight.high is None:
        return 1.0
    return one.weight.high - one.weight.low


def _some(names: list[str]) -> str:
    if len(names) <= MOST_NAMED:
        return listed(names)
    return listed([*names[: MOST_NAMED - 1], f"{count(len(names) - MOST_NAMED + 1)} others"])
