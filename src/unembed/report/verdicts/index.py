"""The verdict on a map of an index: how much of what tells the signatures apart it shows."""

from __future__ import annotations

import math

from unembed.report.parts.wording import count, counted, share, whole_percent
from unembed.report.verdicts.verdict import Verdict
from unembed.selection.index.plane import Map

NEXT = "unembed index query INDEX SIGNATURE"


def of_record(record: Map) -> Verdict:
    """The verdict on a map."""
    return verdict(record)


def verdict(found: Map) -> Verdict:
    """The share of the squared distances that the two axes hold, and what the rest means."""
    entries = len(found.names)
    if not entries:
        return Verdict(
            "The index holds no signature.",
            "Quality: there is nothing to show.",
            "Found: nothing.",
            "Trust: add signatures first.",
            "unembed index add INDEX SIGNATURE",
        )
    held = sum(found.explained)
    signatures = counted(entries, "signature")
    if not (math.isfinite(held) and held > 0):
        return Verdict(
            f"Nothing tells the {signatures} of the map apart.",
            "Quality: all of them lie in one place.",
            f"Found: {counted(sum(found.samples), 'sample')} in all.",
            "Trust: they are copies of each other, or there is one alone.",
            NEXT,
        )
    first, second = (share(part) for part in found.explained)
    return Verdict(
        f"Two axes show {whole_percent(held)} of what tells {signatures} apart.",
        "Quality: what lies far apart on the map is far apart; what lies near may differ in the "
        f"{whole_percent(max(0.0, 1 - held))} that it does not show.",
        f"Found: the first axis holds {first} of the squared distances, the second {second}.",
        "Trust: the map shows no errors, and few samples alone can move a point; the smallest "
        f"signature has {count(min(found.samples))}. A query tells its errors.",
        NEXT,
    )
