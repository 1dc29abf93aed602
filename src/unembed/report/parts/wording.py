"""Numbers and foreign text as a reader sees them."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import category

from unembed.runs.visible import visible as visible
from unembed.stats.estimate import Estimate
from unembed.stats.forms import FEW_DOCUMENTS, Form
from unembed.stats.forms import PERCENT as PERCENT
from unembed.stats.forms import POINTS as POINTS
from unembed.stats.forms import bounded as bounded
from unembed.stats.forms import change as change
from unembed.stats.forms import cosine as cosine
from unembed.stats.forms import decimal as decimal
from unembed.stats.forms import determined as determined
from unembed.stats.forms import few_documents as few_documents
from unembed.stats.forms import fine_part as fine_part
from unembed.stats.forms import fine_share as fine_share
from unembed.stats.forms import full as full
from unembed.stats.forms import interval as interval
from unembed.stats.forms import part as part
from unembed.stats.forms import point as point
from unembed.stats.forms import points as points
from unembed.stats.forms import possible_part as possible_part
from unembed.stats.forms import share as share
from unembed.stats.forms import signed as signed
from unembed.stats.forms import three as three
from unembed.stats.forms import two as two
from unembed.stats.forms import whole_percent as whole_percent

Wording = Form

_BLANKS = {"\n": "⏎", "\t": "→", "\u00a0": "·", " ": "·"}


FEW_MARK = "†"
"""Stands behind what rests on few documents where a cell has no room to say so."""

FEW_LEGEND = f"{FEW_MARK}\u00a0of fewer than {FEW_DOCUMENTS} documents: the interval is rough"


def cell(estimate: Estimate, form: Form) -> str:
    """``full`` in a table, which explains the ``FEW_MARK`` of what rests on few documents."""
    return f"{bounded(estimate, form)}{_mark(estimate, form)}"


def interval_cell(estimate: Estimate, form: Form) -> str:
    """``interval`` in a table, marked as ``cell`` is."""
    return f"{interval(estimate, form)}{_mark(estimate, form)}".strip()


def _mark(estimate: Estimate, form: Form) -> str:
    few = determined(estimate, form) and few_documents(estimate)
    return f"\u00a0{FEW_MARK}" if few else ""


def count(n: int) -> str:
    """``98304`` as ``98,304``."""
    return f"{n:,}"


def counted(n: int, noun: str) -> str:
    """A number with its noun: ``1 document``, ``2 documents``."""
    return f"{count(n)} {noun}" + "s" * (n != 1)


def signed_count(n: int) -> str:
    """``-1204`` as ``−1,204``, ``3`` as ``+3``."""
    return f"{n:+,d}".replace("-", "−") if n else "0"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}"


def capital(words: str) -> str:
    """The words with a capital first letter."""
    return words[:1].upper() + words[1:]


def short(name: str, letters: int) -> str:
    """A name in one line, its end cut off where it is longer than so many letters."""
    plain = visible(" ".join(name.split()))
    return plain if len(plain) <= letters else plain[: letters - 1] + "…"


def known(value: float | None, wording: Wording) -> str:
    """A value in words, ``none`` where there is none."""
    return "none" if value is None else wording(value)


def size(positions: int, documents: int) -> str:
    """How much was measured: ``1,500 positions in 12 documents``."""
    return f"{counted(positions, 'position')} in {counted(documents, 'document')}"


def p_value(p: float | None) -> str:
    """A p-value; tiny ones as a bound."""
    return "< 0.0001" if p is not None and p < 1e-4 else known(p, decimal)


def p_value_of(estimate: Estimate) -> str:
    """An estimate that is a p-value, or why there is none."""
    return f"none: {estimate.reason}" if estimate.value is None else p_value(estimate.value)


def side_of(estimate: Estimate, at: float) -> int:
    """1 where the whole interval lies above ``at``, -1 where below, 0 where it holds it.

    0 also without an interval.
    """
    if estimate.low is None or estimate.high is None:
        return 0
    return int(estimate.low > at) - int(estimate.high < at)


def between(low: float, high: float | None) -> str:
    """A half-open range, ``0.5–1``; an open one is ``≥ 5``."""
    return f"≥\u00a0{low:g}" if high is None else f"{low:g}–{high:g}"


def token(text: str, longest: int = 60) -> str:
    """A lone token: ``visible``, its blanks at either end marked, cut after ``longest``."""
    bare = text.strip("".join(_BLANKS))
    lead, _, tail = text.partition(bare) if bare else (text, "", "")
    marked = ["".join(_BLANKS[blank] for blank in end) for end in (lead, tail)]
    middle = bare.replace("\n", "⏎").replace("\t", "→")
    if middle and category(middle[0])[0] == "M":
        middle = "◌" + middle
    whole = visible(marked[0] + middle + marked[1])
    return whole if len(whole) <= longest else whole[: longest - 1] + "…"
