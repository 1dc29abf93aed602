"""Whether there are enough samples, and how many more it would take, in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist

from unembed.report.parts.wording import count, counted
from unembed.stats.forms import FEW_DOCUMENTS

OK = "ok"
"""The status of a task that has enough samples."""
MOST_NOTED = 5
"""Tasks named above a page for lacking samples; its table names them all."""
SURE = 0.95
MOST_TIMES = 100
"""How much more text is worth to ask for; beyond, the figure is no advice."""


def few_documents(documents: int) -> str:
    """A sentence where a text has fewer than ten documents, else empty."""
    if documents >= FEW_DOCUMENTS:
        return ""
    return f"A text has {counted(documents, 'document')} alone: intervals are rough."


def doubted_notes(
    statuses: Iterable[tuple[str, str]], noun: str, most: int = MOST_NOTED
) -> list[str]:
    """A sentence for each of the first ``most`` with a warning, and one that counts the others.

    ``statuses`` are names and statuses.
    """
    doubted = [(name, status) for name, status in statuses if status != OK]
    said = [f"{name}: {status}." for name, status in doubted[:most]]
    if len(doubted) > most:
        said.append(f"{counted(len(doubted) - most, f'more {noun}')}: see the table of {noun}s.")
    return said


def doubted_words(doubted: Sequence[tuple[str, str]], of: str) -> str:
    """A sentence on the tasks that have a warning, by their names and statuses, ``of`` so many."""
    name, status = doubted[0]
    many = len(doubted) > 1
    if any("few" in words for _name, words in doubted):
        start, verb = "the samples do not suffice", "lack some" if many else "lacks some"
    else:
        start, verb = "mind the notes below", "have one" if many else "has one"
    return f"{start}: {count(len(doubted))} of {of} {verb}, such as {name} ({status})."


def few_words(n: int, noun: str) -> str:
    """A sentence where an interval rests on fewer than ten of something, else empty."""
    return "" if n >= FEW_DOCUMENTS else f"So few {noun}s make them rough."


def times_to_tell(first: float | None, second: float | None) -> float:
    """How many times the samples tell two apart whose chances to be the best are these.

    With normal errors that shrink as ``1 / sqrt(n)`` and a difference that stays what it is, the
    chance that the first is better is ``Phi(z sqrt(times))``, where ``Phi(z) = p`` now:
    ``times = (Phi⁻¹(0.95) / Phi⁻¹(p))²``. Infinite where the two are as likely.
    """
    if not first or not second:
        return 1.0
    normal = NormalDist()
    z = normal.inv_cdf(max(first, second) / (first + second))
    return max(1.0, (normal.inv_cdf(SURE) / z) ** 2) if z > 0 else math.inf


def times_to_narrow(half: float, wanted: float) -> float:
    """How many times the samples narrow half an interval to ``wanted``: ``(half / wanted)²``."""
    return max(1.0, (half / wanted) ** 2)


def times_words(times: float) -> str:
    """How much more text it takes, for errors that shrink as one over the root of the samples.

    The difference of two that are not told apart is itself uncertain, and so is the figure.
    """
    if times > MOST_TIMES:
        return f"Even {count(MOST_TIMES)} times as much text might not: take either."
    much = f"about {count(rounded_up(times))} times as much text"
    return f"If the difference is as large as it looks, {much} would; if it is smaller, more."


def rounded_up(number: float | int) -> int:
    """The next whole number, with one digit from ten on: 9.4 is 10, 12 is 20, 3,100 is 4,000."""
    unit = int(10 ** max(0, math.floor(math.log10(max(number, 1.0)))))
    return math.ceil(round(number / unit, 6)) * unit
