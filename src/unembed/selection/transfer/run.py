"""Measured transfer and how scores foretold it, kept in a run's folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unembed.runs.small import Facts, keep_summary, load_summary
from unembed.selection.transfer.records import Transfer, Verdict
from unembed.selection.transfer.verdicts import judge
from unembed.stats.estimate import Estimate

KIND = "transfer"
ESTIMATES = ("top1", "share", "regret", "spearman")


@dataclass(frozen=True)
class TransferRun:
    """A transfer matrix with scores, what they came to, and what both rest on."""

    transfer: Transfer
    verdicts: tuple[Verdict, ...]
    facts: Facts
    folder: Path

    @staticmethod
    def load(folder: str | Path) -> TransferRun:
        """Open a finished run, checked against its recorded SHA-256."""
        values, facts = load_summary(folder, KIND)
        verdicts = tuple(_verdict(one) for one in values["verdicts"])
        return TransferRun(Transfer.from_json(values["transfer"]), verdicts, facts, Path(folder))


def keep_transfer(
    transfer: Transfer, *, out: str | Path, facts: Facts = (), command: str = ""
) -> TransferRun:
    """Judge the methods and keep all of it in ``out``; ``facts`` go before those of the transfer.

    Raises UnembedError as ``judge`` does, and where the folder holds another run.
    """
    plain = transfer.to_json()
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    keep_summary(
        out,
        KIND,
        {"name": transfer.name, "tasks": list(transfer.tasks), "transfer": digest},
        (*facts, *_facts(transfer)),
        command,
        lambda: {
            "transfer": plain,
            "verdicts": [verdict.to_json() for verdict in judge(transfer)],
        },
    )
    return TransferRun.load(out)


def _facts(transfer: Transfer) -> Facts:
    seeds, tasks, _ = transfer.gains.shape
    missing = int(np.isnan(transfer.gains).sum())
    return (
        ("Training", transfer.training),
        ("Tasks", f"{tasks}, each of which every other may help"),
        ("Seeds", str(seeds)),
        ("Pairs measured", f"{transfer.gains.size - missing:,} of {transfer.gains.size:,}"),
        ("Methods", str(len(transfer.scores))),
    )


def _verdict(values: dict[str, Any]) -> Verdict:
    return Verdict(**{**values, **{name: Estimate(**values[name]) for name in ESTIMATES}})
