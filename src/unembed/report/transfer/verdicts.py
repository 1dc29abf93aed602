"""How well methods chose: as a forest plot, and what each of them costs."""

from __future__ import annotations

from collections.abc import Sequence

from unembed.report.parts.forest import Cell, Forest, ForestRow, ReferenceLine, reach
from unembed.report.parts.parts import Table, table_of
from unembed.report.parts.scales import scale_of
from unembed.report.parts.wording import (
    Wording,
    cosine,
    count,
    counted,
    decimal,
    full,
    known,
    part,
    share,
    three,
    two,
)
from unembed.selection.scores import MODEL_BASELINES
from unembed.selection.transfer.records import Transfer, Verdict
from unembed.stats.estimate import Estimate

ORACLE, RANDOM = "oracle", "random"
"""Methods that nobody can use, and that nobody should."""
AT_RANDOM = (RANDOM, "chance")
"""What methods that choose at random are called."""
NOT_DEPLOYABLE = (ORACLE, *AT_RANDOM, "gains")
"""How the names of methods begin that are there to compare with."""

FIGURE_NAMES = {
    "share": "share of the best gain",
    "top1": "right first choices",
    "spearman": "rank correlation",
    "regret": "regret",
}
"""What a verdict's figures are called in a sentence."""


def forest(verdicts: Sequence[Verdict]) -> Forest:
    """The methods by the share of the best gain that their choices brought."""
    unknown = any(one.unknown for one in verdicts)
    rows = tuple(
        ForestRow(
            one.method,
            one.share.value,
            one.share.low,
            one.share.high,
            (
                _cell(one.share, part),
                _cell(one.top1, share),
                _cell(one.spearman, cosine),
                Cell(_p(one.p)),
                _cell(one.regret, three),
                *([Cell(count(one.unknown))] if unknown else []),
            ),
            "lead" if deployable(one.method) else "",
        )
        for one in by_quality(verdicts)
    )
    head = ("method", "share of the best gain", "share", "right first choice", "Spearman", "p")
    choices = sorted({one.top1.n for one in verdicts})
    of = " to ".join(dict.fromkeys(map(count, (choices[0], choices[-1]))))
    chance = next((one.share.value for one in verdicts if one.method in AT_RANDOM), None)
    return Forest(
        caption=f"Methods, the best first, with 95 % intervals over targets and seeds; n = {of}",
        head=(*head, "regret, nats", *(("unscored",) if unknown else ())),
        scale=scale_of([0.0, 1.0, *reach(rows)], percent=True),
        rows=rows,
        line=None if chance is None else ReferenceLine(chance, "chance"),
    )


def costs(transfer: Transfer, verdicts: Sequence[Verdict]) -> Table | None:
    """What each method takes, in the order of the verdicts; None where nothing was measured."""
    if all((one.seconds, one.mib, one.bytes) == (None, None, None) for one in transfer.scores):
        return None
    scored = {one.method: one for one in transfer.scores}
    names = [one.method for one in by_quality(verdicts) if one.method in scored]
    names += [name for name in scored if name not in names]
    trained = "a model trained on each source"
    return table_of(
        "Time for all pairs of one seed, memory beyond the model, what is kept of a task",
        [scored[name] for name in names],
        {
            "method": lambda one: one.method,
            "seconds": lambda one: known(one.seconds, decimal),
            "MiB": lambda one: known(one.mib, decimal),
            "bytes a task": lambda one: "none" if one.bytes is None else count(one.bytes),
            "needs": lambda one: trained if after_training(one.method) else "",
        },
    )


def by_quality(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The largest share of the best gain first, then the most first choices right."""

    def quality(one: Verdict) -> tuple[float, float]:
        lowest = float("-inf")
        found = (one.share.value, one.top1.value)
        first, second = (lowest if value is None else value for value in found)
        return -first, -second

    return sorted(verdicts, key=quality)


def deployable(method: str) -> bool:
    """Whether a method can choose before anything is trained."""
    return base(method) not in NOT_DEPLOYABLE and not after_training(method)


def after_training(method: str) -> bool:
    """Whether a method reads the target's text with a model trained on each source."""
    return base(method) in MODEL_BASELINES


def base(method: str) -> str:
    """The score that a method's name begins with, ``joint`` of ``joint, plug-in``."""
    return method.replace(",", " ").replace("(", " ").split(" ")[0] if method else ""


def agreement(one: Verdict) -> str:
    """How well a method's order agrees with that of the gains."""
    words = f"Spearman within a target: {full(one.spearman, two)}"
    if one.spearman.value is not None:
        words += f", p {_p(one.p) if _p(one.p).startswith('<') else '= ' + _p(one.p)}"
    if one.unknown:
        words += f"; {counted(one.unknown, 'pair')} without a score"
    return words + "."


def reasons(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """Why methods have no figure, each reason once with how many it is of."""
    found = []
    for field, words in FIGURE_NAMES.items():
        lost: dict[str, list[str]] = {}
        for one in verdicts:
            figure: Estimate = getattr(one, field)
            if figure.value is None:
                lost.setdefault(figure.reason or "", []).append(one.method)
        for reason, methods in lost.items():
            of = methods[0] if len(methods) == 1 else counted(len(methods), "method")
            found.append(f"No {words} of {of}: {reason}.")
    return tuple(found)


def _cell(found: Estimate, form: Wording) -> Cell:
    return Cell("none" if found.value is None else full(found, form))


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
