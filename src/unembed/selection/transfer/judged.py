"""Measured transfer with how well each score predicted it, as a run keeps them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from unembed.runs.frames import Figures
from unembed.runs.manifest import Facts
from unembed.runs.record import record_from_json
from unembed.runs.run_record import RunRecord
from unembed.runs.store import RunFolder
from unembed.selection.transfer.records import Transfer, Verdict
from unembed.selection.transfer.text import transfer_text
from unembed.selection.transfer.verdicts import judge


@dataclass(frozen=True)
class JudgedTransfer(RunRecord, Figures):
    """A transfer matrix with scores, and what each score's choices came to."""

    KIND: ClassVar[str] = "transfer"

    transfer: Transfer
    verdicts: tuple[Verdict, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "transfer": self.transfer.to_json(),
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> JudgedTransfer:
        """Read back what ``to_json`` wrote."""
        verdicts = tuple(record_from_json(Verdict, one) for one in values["verdicts"])
        return cls(Transfer.from_json(values["transfer"]), verdicts)

    def __str__(self) -> str:
        return transfer_text(self.verdicts)


def judge_transfer(
    transfer: Transfer, *, out: str | Path, facts: Facts = (), command: str = ""
) -> JudgedTransfer:
    """Judge the scores and keep all of it in ``out``; ``facts`` go before those of the transfer.

    Raises UnembedError as ``judge`` does, and where the folder holds another run.
    """
    plain = json.dumps(transfer.to_json(), sort_keys=True)
    key = {
        "name": transfer.name,
        "tasks": list(transfer.tasks),
        "transfer": hashlib.sha256(plain.encode()).hexdigest(),
    }

    def judged(_folder: RunFolder) -> dict[str, Any]:
        return JudgedTransfer(transfer, judge(transfer)).to_json()

    facts = (*facts, *_facts(transfer))
    return JudgedTransfer.keep(out, key, judged, facts=facts, command=command)


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
