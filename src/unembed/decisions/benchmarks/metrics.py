"""What a benchmark's metric is of each sample, and how one number is made of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

Unit = Literal["share", "number", "nats", "bits"]
"""``share``: every sample from 0 to 1; ``nats`` and ``bits``: the loss behind a perplexity."""

HEADLINES = ("acc_norm", "acc", "exact_match")
"""A task's headline metric is the first of these that it has, else the first that it lists."""


@dataclass(frozen=True)
class Metric:
    """One metric of a task, whose score is ``sums.sum() / sizes.sum()`` over its samples.

    ``sizes`` are ones but for a loss by words or bytes. Of a perplexity the sums are losses, so
    that its score is the logarithm: a perplexity itself is no mean of its samples.
    """

    name: str
    unit: Unit
    higher_is_better: bool
    sums: Float[np.ndarray, " samples"]
    sizes: Float[np.ndarray, " samples"]

    @property
    def binary(self) -> bool:
        """Whether every sample is right or wrong."""
        return self.unit == "share" and bool(np.isin(self.sums, (0.0, 1.0)).all())


def metric_of(
    name: str, values: Sequence[Any], reported: Any, higher_is_better: bool
) -> Metric | str:
    """How the reported number comes from the samples' values, found by making it again.

    It is their mean; or ``exp(-mean)``; or, of pairs, ``exp(-sum a / sum b)`` or that exponent in
    bits. Else why the metric cannot be paired, in words: it is none of these, as F1 and BLEU are
    of a whole task.
    """
    if not _is_number(reported):
        return "no number is reported"
    if all(map(_is_number, values)):
        column = np.array(values, dtype=np.float64)
        sizes = np.ones(len(column))
        if np.isfinite(column).all():
            if _equal(reported, column.mean()):
                unit: Unit = "share" if ((column >= 0) & (column <= 1)).all() else "number"
                return Metric(name, unit, higher_is_better, column, sizes)
            if _equal(reported, _exp(-column.mean())):
                return Metric(name, "nats", False, -column, sizes)
        return "it is no mean of its samples"
    if all(isinstance(one, list) and len(one) == 2 and all(map(_is_number, one)) for one in values):
        logs, sizes = np.array(values, dtype=np.float64).T
        if np.isfinite(logs).all() and (sizes > 0).all():
            rate = -logs.sum() / sizes.sum()
            if _equal(reported, _exp(rate)):
                return Metric(name, "nats", False, -logs, sizes)
            if _equal(reported, rate / math.log(2)):
                return Metric(name, "bits", False, -logs / math.log(2), sizes)
    return "it is no mean of its samples"


def headline_of(names: Iterable[str]) -> str:
    """The name of the headline metric; a filter's stands behind a comma, ``exact_match,strict``."""
    order = list(names)
    first = {name.partition(",")[0]: name for name in reversed(order)}
    return next((first[name] for name in HEADLINES if name in first), order[0])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _equal(reported: float, made: float) -> bool:
    return math.isclose(reported, made, rel_tol=1e-9, abs_tol=1e-12)
