"""Numbers and foreign text as a reader sees them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from unicodedata import category

from unembed.runs.visible import visible as visible
from unembed.stats.estimate import Estimate

Wording = Callable[[float], str]

PERCENT = "\u00a0%"
POINTS = "\u00a0pp"

_BLANKS = {"\n": "⏎", "\t": "→", "\u00a0": "·", " ": "·"}


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


def share(value: float) -> str:
    """A fraction in percent, ``0.2412`` as ``24.1 %``; small ones keep more decimals."""
    percent = 100.0 * value
    digits = 1 if percent == 0.0 or abs(percent) >= 10 else 2 if abs(percent) >= 0.1 else 3
    return f"{percent:.{digits}f}{PERCENT}"


def fine_share(value: float) -> str:
    """A fraction in percent with two decimals, ``0.9916`` as ``99.16 %``."""
    return fixed(100.0 * value, 2) + PERCENT


def decimal(value: float) -> str:
    """Three significant digits, two decimals at least below ten: ``1.3178`` as ``1.32``."""
    size = abs(value)
    if value == 0.0:
        return "0"
    if size >= 1e6 or size < 1e-4:
        mantissa, exponent = f"{value:.2e}".split("e")
        raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{mantissa}·10{raised}".replace("-", "−")
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3
    if size < 0.1:
        digits = 4 if size >= 0.01 else 6
    return f"{value:,.{digits}f}".replace("-", "−")


def fixed(value: float, digits: int) -> str:
    """So many decimals, ``0.712``; ``none`` for what is not finite."""
    if not math.isfinite(value):
        return "none"
    # Adding 0.0 turns the -0.0 that rounding may leave into 0.0.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def two(value: float) -> str:
    """Two decimals, ``0.71``."""
    return fixed(value, 2)


def three(value: float) -> str:
    """Three decimals, ``0.712``."""
    return fixed(value, 3)


def whole_percent(value: float) -> str:
    """A fraction in whole percent, ``0.2412`` as ``24 %``."""
    return fixed(100 * value, 0) + PERCENT


def known(value: float | None, wording: Wording) -> str:
    """A value in words, ``none`` where there is none."""
    return "none" if value is None else wording(value)


def size(positions: int, documents: int) -> str:
    """How much was measured: ``1,500 positions in 12 documents``."""
    return f"{counted(positions, 'position')} in {counted(documents, 'document')}"


def signed(value: float) -> str:
    """``decimal`` with its sign: ``+0.412``."""
    return "+" * (value > 0) + decimal(value)


def points(value: float) -> str:
    """A difference of two shares in percentage points: ``0.0041`` as ``+0.410 pp``."""
    return signed(100.0 * value) + POINTS


def change(value: float) -> str:
    """A relative change in percent: ``0.283`` as ``+28.30 %``."""
    return signed(100.0 * value) + PERCENT


def p_value(p: float | None) -> str:
    """A p-value; tiny ones as a bound."""
    return "< 0.0001" if p is not None and p < 1e-4 else known(p, decimal)


def side_of(estimate: Estimate, at: float) -> int:
    """1 where the whole interval lies above ``at``, -1 where below, 0 where it holds it.

    0 also without an interval.
    """
    if estimate.low is None or estimate.high is None:
        return 0
    return int(estimate.low > at) - int(estimate.high < at)


def point(estimate: Estimate, wording: Wording) -> str:
    """The value in words, or the reason why there is none."""
    return f"none: {estimate.reason}" if estimate.value is None else wording(estimate.value)


def interval(estimate: Estimate, wording: Wording) -> str:
    """The 95 % interval as ``23.2 to 25.0 %``; empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    low = wording(estimate.low).removesuffix(PERCENT).removesuffix(POINTS)
    return f"{low} to {wording(estimate.high)}"


def full(estimate: Estimate, wording: Wording) -> str:
    """Value and interval in one line, ``24.1 % (23.2 % to 25.0 %)``."""
    bounds = interval(estimate, wording)
    return point(estimate, wording) + (f" ({bounds})" if bounds else "")


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
