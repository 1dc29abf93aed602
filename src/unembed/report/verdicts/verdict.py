"""What a run found, in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unembed.runs.run_record import Drawn


@dataclass(frozen=True)
class Verdict:
    """One sentence, then three points: the quality, what was found, and whether to trust it.

    ``next`` is a command that would tell more. Terminal, page and ``record.verdict`` hold the same
    words; the rules that choose them are in the module of the kind of run.
    """

    sentence: str
    quality: str
    change: str
    trust: str
    next: str = ""

    @property
    def bullets(self) -> tuple[str, str, str]:
        """The three points, the last with the next command."""
        last = f"{self.trust} Next: {self.next}" if self.next else self.trust
        return self.quality, self.change, last

    def __str__(self) -> str:
        return "\n".join((self.sentence, *(f"  • {one}" for one in self.bullets)))

    def to_json(self) -> dict[str, str]:
        """The words by their names."""
        return dict(vars(self))


def verdict_of(record: Drawn) -> Verdict:
    """What a run of any kind found."""
    found: Verdict = resolve_name(f"unembed.report.verdicts.{record.KIND}:of_record")(record)
    return found
