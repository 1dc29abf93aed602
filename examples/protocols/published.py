"""The published figures of source selection, our statistics of the same kind, and a sentence each.

Nothing here reads a model: gains and scores come in as arrays, so that any setting can be judged by
the same rules (``measure.py`` does it for text, ``examples/molecules`` for molecules).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from unembed import Estimate
from unembed.selection import Scores, Transfer, judge
from unembed.stats import standard_ranks, student_t

PERMUTATIONS = 10_000
SEED = 0


@dataclass(frozen=True)
class Published:
    """A published figure: what it is of, its value, and what choosing at random has."""

    protocol: str
    statistic: str
    value: float
    form: str
    chance: float | None = None
    error: float | None = None

    def __str__(self) -> str:
        plus = "" if self.error is None else f" ± {self.error:{self.form}}"
        return f"{self.value:{self.form}}{plus}"


CHOSEN, SHARE = "best source chosen", "share of the oracle's transfer"
SHIFT_TOP1 = Published("verbaliser shift", CHOSEN, 0.667, ".1%", 0.2)
SHIFT_SHARE = Published("verbaliser shift", SHARE, 0.957, ".1%")
SHIFT_STATES = Published("verbaliser shift", "S(M) over pairs", 1.0013, ".4f", error=0.0006)
NATURAL_TOP1 = Published("natural shift", CHOSEN, 0.457, ".1%", 1 / 24, 0.05)
NATURAL_SHARE = Published("natural shift", SHARE, 0.9844, ".1%", error=0.003)
STRINGS_RHO = Published("nine string domains", "Spearman, score against fall", 0.53, ".2f", 0.0)


@dataclass(frozen=True)
class CrossDomain:
    """Spearman's rho of score and gain over all ordered pairs of domains.

    The interval deletes one domain at a time; ``p`` is the share of relabellings of the domains
    that give as large a correlation, the one found among them.
    """

    rho: Estimate
    p: float
    domains: int
    seeds: int


def cross_domain(
    gains: Float[np.ndarray, "seeds sources targets"],
    scores: Float[np.ndarray, "seeds sources targets"],
) -> CrossDomain:
    """How far scores of pairs of domains go with what training on one gained the other.

    Naively, of the means over seeds::

        rho = spearman(scores[i != j], gains[i != j])
        p = mean(spearman(scores[order][:, order][i != j], gains[i != j]) >= rho for many orders)

    A pair shares a domain with many others, so that pairs are not independent: domains are. The
    interval is the jackknife's over domains, on Fisher's z, with Student's t of n - 1, which holds
    95 to 99 % of the time on made-up domains, most where pairs are all that differs; the p-value is
    one-sided (Mantel's). Raises ValueError for fewer than four domains.
    """
    gain, score = gains.mean(0), scores.mean(0)
    count = len(gain)
    if count < 4:
        raise ValueError(f"{count} domains leave nothing to delete: give four at least")
    found = _rho(score, gain)
    z = np.arctanh(np.clip(found, -1 + 1e-9, 1 - 1e-9))
    kept = [np.delete(np.arange(count), i) for i in range(count)]
    deleted = np.arctanh([_rho(score[np.ix_(k, k)], gain[np.ix_(k, k)]) * (1 - 1e-9) for k in kept])
    se = float(np.sqrt((count - 1) / count * np.square(deleted - deleted.mean()).sum()))
    reach = student_t(count - 1) * se
    # Relabelling moves pairs about and leaves their ranks.
    rows, columns = np.nonzero(~np.eye(count, dtype=bool))
    ranks = np.zeros((count, count))
    ranks[rows, columns] = _ranks(score)
    rng = np.random.default_rng(SEED)
    orders = rng.permuted(np.tile(np.arange(count), (PERMUTATIONS, 1)), axis=1)
    drawn = ranks[orders[:, rows], orders[:, columns]] @ standard_ranks(gain[rows, columns])
    p = float((1 + (drawn >= found - 1e-9).sum()) / (1 + PERMUTATIONS))
    low, high = float(np.tanh(z - reach)), float(np.tanh(z + reach))
    return CrossDomain(Estimate(found, low, high, n=count * (count - 1)), p, count, len(gains))


def cross_domain_difference(
    gains: Float[np.ndarray, "seeds sources targets"],
    first: Float[np.ndarray, "seeds sources targets"],
    second: Float[np.ndarray, "seeds sources targets"],
) -> Estimate:
    """How much more the first scores go with the gains than the second: a difference of rho.

    The interval is the jackknife's over domains, with Student's t of n - 1.
    """
    gain, a, b = gains.mean(0), first.mean(0), second.mean(0)
    count = len(gain)
    kept = [np.ix_(k, k) for k in (np.delete(np.arange(count), i) for i in range(count))]
    found = _rho(a, gain) - _rho(b, gain)
    deleted = np.array([_rho(a[k], gain[k]) - _rho(b[k], gain[k]) for k in kept])
    se = np.sqrt((count - 1) / count * np.square(deleted - deleted.mean()).sum())
    reach = student_t(count - 1) * float(se)
    return Estimate(found, found - reach, found + reach, n=count * (count - 1))


def _rho(
    score: Float[np.ndarray, "sources targets"], gain: Float[np.ndarray, "sources targets"]
) -> float:
    """Spearman's rho over ordered pairs of different domains; 0 where either is all one value."""
    return float(_ranks(score) @ standard_ranks(gain[~np.eye(len(gain), dtype=bool)]))


def _ranks(score: Float[np.ndarray, "sources targets"]) -> Float[np.ndarray, " pairs"]:
    """Of pairs of different domains; scores that differ in their last digits alone are one."""
    return standard_ranks(np.round(score[~np.eye(len(score), dtype=bool)], 7))


@dataclass(frozen=True)
class Row:
    """One of our figures beside a published one (None where none was published).

    ``chance`` is what choosing at random has here, where that is not what was published. A
    ``sentence`` stands in place of the one by the interval.
    """

    published: Published | None
    setting: str
    method: str
    statistic: str
    estimate: Estimate
    note: str = ""
    chance: float | None = None
    sentence: str = ""

    @property
    def verdict(self) -> str:
        """In a sentence, by the interval alone; ``note`` follows.

        Reproduced: the interval holds the published figure (with its own error), or is above it.
        The effect alone: it is below, but above chance. Not reproduced: it holds chance too.
        """
        if self.published is None or self.sentence:
            return self.sentence or self.note
        end = "" if not self.note else f"; {self.note}"
        low, high = self.estimate.low, self.estimate.high
        if self.estimate.value is None or low is None or high is None:
            return f"not comparable: {self.estimate.reason or 'there is no interval'}{end}"
        off = self.published.error or 0.0
        value = self.published.value
        chance = self.published.chance if self.chance is None else self.chance
        if chance is not None and low <= chance:
            wide = ", nor told apart from the published figure" if high >= value - off else ""
            return f"not reproduced: it is not told apart from chance{wide}{end}"
        if low > value + off:
            return f"reproduced, and above the published figure{end}"
        if high >= value - off:
            return f"reproduced: the interval holds the published figure{end}"
        if chance is None:
            return f"not reproduced: it is below the published figure{end}"
        return f"the effect is reproduced, and is smaller than the published figure{end}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "verdict": self.verdict}


def choice_rows(
    transfer: Transfer,
    methods: tuple[str, ...],
    setting: str,
    top1: Published | None,
    share: Published | None,
) -> list[Row]:
    """Best source chosen, and share of the oracle's transfer, of some methods by ``judge``."""
    rows = []
    verdicts = judge(transfer)
    at_random = next((one.share.value for one in verdicts if one.method == "chance"), None)
    for one in verdicts:
        if one.method in methods:
            note = "" if not one.unknown else f"{one.unknown} pairs had no score"
            rows.append(Row(top1, setting, one.method, CHOSEN, one.top1, note))
            rows.append(Row(share, setting, one.method, SHARE, one.share, note, at_random))
    return rows


def spread(scores: Scores) -> tuple[float, float]:
    """Mean and standard deviation of a method's scores over different tasks."""
    apart = ~np.eye(scores.values.shape[1], dtype=bool)
    values = scores.values[:, apart]
    return float(values.mean()), float(values.std())


def table(rows: list[Row]) -> list[str]:
    """The rows as lines of text, a blank line between settings."""
    lines = [f"{'score':42}{'statistic':34}{'published':>14}{'here':>24}  "]
    setting = ""
    for row in rows:
        if row.setting != setting:
            setting = row.setting
            lines += ["", setting]
        plain = ".1%" if row.statistic in (CHOSEN, SHARE) else ".2f"
        form = plain if row.published is None else row.published.form
        said = "" if row.published is None else str(row.published)
        cell = f"{row.estimate:{form}}" if row.estimate.value is not None else "none"
        lines.append(
            f"{row.method:42}{row.statistic:34}{said:>14}{cell:>24}  {row.verdict}".rstrip()
        )
    return lines
