"""A mixture as short text, and as the line that ``datasets`` takes."""

from __future__ import annotations

import re
from pathlib import Path

from unembed.runs.columns import columns
from unembed.runs.table import NAME_WIDTH
from unembed.selection.mixing.record import Mixture
from unembed.stats.estimate import Estimate
from unembed.stats.forms import decimal, full

MOST_LISTED = 20
"""Sources that are listed each; of more, those used."""
DIGITS = 4


def mixture_text(mixture: Mixture) -> str:
    """Every weight with its interval, largest first, then total, residual, warnings, the line."""
    used = [share for share in mixture.shares if share.probability > 0]
    lines = [f"{mixture.target} by {mixture.by}: {len(used)} of {len(mixture.shares)} sources used"]
    lines.append(columns(mixture_rows(mixture), NAME_WIDTH))
    lines += [f"warning: {sentence}" for sentence in mixture.warnings]
    line = interleave_line(mixture)
    return "\n".join([*lines, line] if line else lines)


def mixture_rows(mixture: Mixture) -> list[tuple[str, str]]:
    """Every weight with its interval, largest first, then total and residual."""
    shares = sorted(mixture.shares, key=lambda share: -(share.weight.value or 0.0))
    used = [share for share in shares if share.probability > 0]
    listed = shares if len(shares) <= MOST_LISTED else used
    return [
        *((share.name, full(share.weight, decimal)) for share in listed),
        ("weights before they sum to 1", full(mixture.total, decimal)),
        ("residual", full(mixture.residual, decimal) + _below_zero(mixture.residual)),
    ]


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


def _below_zero(residual: Estimate) -> str:
    """What a share below 0 means, as an estimate of one may be."""
    if residual.value is None or residual.high is None or not residual.value < 0 <= residual.high:
        return ""
    return "  below 0 by chance: nothing is left"


def _variables(names: list[str]) -> list[str]:
    """Names of Python variables, each once."""
    found: list[str] = []
    for name in names:
        word = re.sub(r"\W+", "_", Path(name).name.removesuffix(".safetensors")).strip("_")
        word = word if word[:1].isalpha() else f"text_{word}"
        same = sum(re.fullmatch(rf"{word}(_\d+)?", other) is not None for other in found)
        found.append(word if not same else f"{word}_{same + 1}")
    return found
