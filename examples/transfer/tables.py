"""The results of a setting as lines of text, and as plain values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from subsets import Foreseen

from unembed import Estimate
from unembed.selection import Difference, Transfer, compared, judge

PAIRS = (
    ("joint", "activation"),
    ("joint", "error"),
    ("joint", "gradient"),
    ("joint", "proxy"),
    ("joint", "unigram_loss"),
    ("joint, plug-in", "joint"),
    ("joint, plug-in", "error, plug-in"),
    ("joint, plug-in", "gradient, plug-in"),
    *(
        (f"joint {part}, {unit}", other)
        for part in ("full", "blocks", "profile")
        for unit in ("token", "sequence")
        for other in ("joint", f"joint head, {unit}")
    ),
    *(
        (f"gradient {part}, token", other)
        for part in ("full", "profile")
        for other in ("joint", "gradient")
    ),
    ("joint full of warm adapters", "joint"),
    ("joint blocks of warm adapters", "joint"),
    ("adapter's step", "joint"),
    ("adapter's step", "loss, lora trained"),
    ("step", "gradient"),
    ("step", "joint"),
    ("step", "unigram_loss"),
)
"""What is compared in pairs, where both were measured."""


def lines(transfer: Transfer) -> Iterator[str]:
    """Every method, the one with the least regret first, and differences between some."""
    seeds, tasks, _ = transfer.gains.shape
    own = np.einsum("stt->t", transfer.gains) / seeds
    others = transfer.gains[:, ~np.eye(tasks, dtype=bool)]
    yield ""
    yield f"{transfer.name}: {tasks} tasks, {tasks - 1} sources each, {seeds} seeds"
    yield f"trained: {transfer.training}"
    yield (
        f"gain, nats a token: own text {own.mean():.3f} ({own.min():.3f} to {own.max():.3f}), "
        f"other text {others.mean():.3f} ({others.min():.3f} to {others.max():.3f}), "
        f"{(others < 0).mean():.0%} below 0; at random {1 / (tasks - 1):.1%} choose best"
    )
    heads = ("top-1 %", "share %", "regret, nats", "Spearman", "p", "s", "MiB", "KiB kept")
    widths = (22, 24, 26, 24, 9, 9, 8, 10)
    yield f"{'method':40}" + "".join(f"{h:>{w}}" for h, w in zip(heads, widths, strict=True))
    both = list(zip(transfer.scores, judge(transfer), strict=True))
    for scores, one in sorted(both, key=lambda pair: pair[1].regret.value or 0.0):
        cells = (
            cell(one.top1, 100, ".1f"),
            cell(one.share, 100, ".1f"),
            cell(one.regret, 1, ".4f"),
            cell(one.spearman, 1, ".3f"),
            f"{one.p:.4f}",
            "" if scores.seconds is None else f"{scores.seconds:.1f}",
            "" if scores.mib is None else f"{scores.mib:.0f}",
            "" if scores.bytes is None else f"{scores.bytes / 1024:.1f}",
        )
        row = f"{scores.method:40}" + "".join(
            f"{c:>{w}}" for c, w in zip(cells, widths, strict=True)
        )
        yield row + (f"  {one.unknown} unknown" if one.unknown else "")
    for found in differences(transfer):
        yield (
            f"{found.first} less {found.second}: top-1 {cell(found.top1, 100, '+.1f')} %, regret "
            f"{cell(found.regret, 1, '+.4f')} nats, Spearman {cell(found.spearman, 1, '+.3f')}"
        )


def lines_of_subsets(found: list[Foreseen], apart: list[tuple[str, Estimate]]) -> Iterator[str]:
    """How well sums of each method's scores foresaw training on halves of the sources."""
    if not found:
        return
    yield ""
    yield f"{'correlation over subsets':40}{'all subsets':>24}{'without its own domain':>26}"
    for one in sorted(found, key=lambda one: -(one.every.value or 0.0)):
        cells = f"{cell(one.every, 1, '.3f'):>24}{cell(one.others, 1, '.3f'):>26}"
        yield f"{one.method:40}{cells}   p {one.p:.3f}"
    for words, difference in apart:
        yield f"{words}: without its own domain {cell(difference, 1, '+.3f')}"


def differences(transfer: Transfer) -> list[Difference]:
    """Those of PAIRS that were measured."""
    known = {one.method for one in transfer.scores}
    return [compared(transfer, a, b) for a, b in PAIRS if {a, b} <= known]


def as_json(transfer: Transfer) -> dict[str, Any]:
    """Verdicts and differences, without the matrices."""
    return {
        "name": transfer.name,
        "tasks": transfer.tasks,
        "training": transfer.training,
        "seeds": len(transfer.gains),
        "verdicts": [one.to_json() for one in judge(transfer)],
        "differences": [asdict(one) for one in differences(transfer)],
    }


def cell(estimate: Estimate, scale: float, form: str) -> str:
    """A number and its interval."""
    if estimate.value is None:
        return "none"
    mean = f"{scale * estimate.value:{form}}"
    if estimate.low is None or estimate.high is None:
        return mean
    return f"{mean} [{scale * estimate.low:{form}}, {scale * estimate.high:{form}}]"
