"""A mixture as short text, and as the line that ``datasets`` takes."""

from __future__ import annotations

import re
from pathlib import Path

from unembed.runs.columns import columns
from unembed.runs.table import NAME_WIDTH
from unembed.selection.mixing.record import Mixture, Share
from unembed.stats.estimate import Estimate
from unembed.stats.forms import full, share, two

MOST_LISTED = 20
"""Sources that are listed each; of more, those used."""
DIGITS = 4


def mixture_text(mixture: Mixture) -> str:
    """Every weight with its interval, largest first, then total, residual, warnings, the line.

    A mixture that leaves most of the target has no line.
    """
    used = [share for share in mixture.shares if share.probability > 0]
    lines = [f"{mixture.target} by {mixture.by}: {len(used)} of {len(mixture.shares)} sources used"]
    lines.append(columns(mixture_rows(mixture), NAME_WIDTH))
    lines += [f"warning: {sentence}" for sentence in mixture.warnings]
    line = None if mixture.mostly_left else interleave_line(mixture)
    return "\n".join([*lines, line] if line else lines)


def mixture_rows(mixture: Mixture) -> list[tuple[str, str]]:
    """Every weight with its interval, largest first, then total and residual."""
    every = by_weight(mixture)
    used = [one for one in every if one.probability > 0]
    listed = every if len(every) <= MOST_LISTED else used
    return [
        *((one.name, full(one.weight, share)) for one in listed),
        ("weights before they sum to 1", full(mixture.total, two)),
        ("residual (expressed by none)", residual_words(mixture.residual)),
    ]


def by_weight(mixture: Mixture) -> list[Share]:
    """The shares, the largest first; those without a weight last."""
    known = [one for one in mixture.shares if one.weight.value is not None]
    lost = [one for one in mixture.shares if one.weight.value is None]
    return sorted(known, key=lambda one: -(one.weight.value or 0.0)) + lost


def residual_words(residual: Estimate) -> str:
    """The share that no mixture expresses; its estimate may fall below 0 by chance."""
    words = full(residual, share)
    if residual.value is None or residual.high is None or not residual.value < 0 <= residual.high:
        return words
    return f"{words} (below 0 by chance)"


def interleave_line(mixture: Mixture) -> str | None:
    """Python that mixes the sources used, by their names as variables; None where there are none.

    Such as ``interleave_datasets([reviews, manuals], probabilities=[0.62, 0.38])``. It draws rows,
    so that probabilities are shares of documents; they sum to 1 exactly.
    """
    used = [share for share in mixture.shares if share.probability > 0]
    if not used:
        return None
    units = 10**DIGITS
    counts = [round(share.probability * units) for share in used]
    counts[counts.index(max(counts))] += units - sum(counts)
    kept = [(share.name, count) for share, count in zip(used, counts, strict=True) if count]
    names = _variables([name for name, _count in kept])
    probabilities = ", ".join(str(count / units) for _name, count in kept)
    return f"interleave_datasets([{', '.join(names)}], probabilities=[{probabilities}])"


def _variables(names: list[str]) -> list[str]:
    """Names of Python variables, each once."""
    found: list[str] = []
    for name in names:
        word = re.sub(r"\W+", "_", Path(name).name.removesuffix(".safetensors")).strip("_")
        word = word if word[:1].isalpha() else f"text_{word}"
        same = sum(re.fullmatch(rf"{word}(_\d+)?", other) is not None for other in found)
        found.append(word if not same else f"{word}_{same + 1}")
    return found
