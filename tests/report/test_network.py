"""The page and the words of alignments along a network, whatever is known of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from made_up.network_signatures import (
    modules,
    network_alignments,
    network_signed,
    network_task,
)
from unembed.report.network.page import sections_of
from unembed.report.verdicts.network import sentence
from unembed.signatures.network.align import align_networks
from unembed.signatures.network.records import NetworkAlignments
from unembed.signatures.network.signature import NetworkSignature
from unembed.stats.estimate import Estimate

HEAD_ALONE = modules()[-1:]


def made(seeds: tuple[int, ...], n: int = 40, **how: object) -> list[NetworkSignature]:
    return [
        network_signed("abcdef"[at], network_task(n, seed, tilt=0.5), m=256, **how)  # type: ignore[arg-type]
        for at, seed in enumerate(seeds)
    ]


def without_moments(one: NetworkSignature) -> NetworkSignature:
    return replace(one, states={p: replace(s, first=None) for p, s in one.states.items()})


CASES = {
    "two": lambda: network_alignments(2),
    "three": lambda: network_alignments(3),
    "head alone": lambda: align_networks(
        [network_signed(n, network_task(40, i), of=HEAD_ALONE) for i, n in enumerate("ab")]
    ),
    "one document": lambda: align_networks(made((1, 2), n=2)),
    "the same": lambda: align_networks(made((1, 1))),
    "no blocks": lambda: align_networks(made((1, 2), blocks=0)),
    "no moments": lambda: align_networks([without_moments(one) for one in made((1, 2))]),
    "bfloat16": lambda: align_networks(made((1, 2, 3), precision="bfloat16")),
}


@pytest.mark.parametrize("case", CASES)
def test_every_case_has_a_page_and_a_verdict(case: str, tmp_path: Path) -> None:
    found = CASES[case]()
    page = found.report(tmp_path / "page.html").read_text()
    assert found.verdict.sentence.rstrip(".") in page.replace("&amp;", "&")
    for words in (str(found.verdict), str(found)):
        assert "nan" not in words.lower().split()
    assert ("direction" in {one.name for one in sections_of(found)}) == (
        case not in ("head alone", "one document", "no moments")
    )
    assert ("bfloat16" in found.verdict.trust) == (case == "bfloat16")


def ends(most: tuple[str, ...], least: tuple[str, ...], tasks: int = 2) -> NetworkAlignments:
    found = network_alignments(tasks)
    pair = (0, 1) if tasks == 2 else None
    some = [replace(one, most=most, least=least) for one in found.extremes if one.tasks == pair]
    return replace(found, extremes=tuple(some))


def test_the_sentence_names_what_can_be_told() -> None:
    assert sentence(ends(("depth:0",), ("head",))).startswith(
        "reviews and manuals are most alike at depth 0 ("
    )
    several = sentence(ends(("depth:0", "depth:1", "head"), ("depth:3", "depth:4"), tasks=3))
    assert several.startswith(
        "On average over 3 pairs, tasks are most alike at depths 0–1 and in the head ("
    )
    assert "and least alike at depths 3–4 (" in several
    assert several.endswith("Places named together cannot be told apart.")
    level = sentence(ends(("depth:0", "depth:1"), ("depth:1", "head")))
    assert "as alike all along the network, as far as can be told" in level
    found = network_alignments(2)
    nothing = Estimate(None, reason="lost")
    blank = tuple(
        replace(one, joint=None, mean=nothing) if one.part in found.places else one
        for one in found.parts
    )
    assert "cannot be told" in sentence(replace(found, parts=blank))


def test_tables_hold_what_the_identities_say() -> None:
    found = network_alignments(2)
    [counts] = [one for one in sections_of(found) if one.name == "counts"]
    places, bounds = counts.tables
    added = sum(float(row[3].replace("−", "-")) for row in places.rows)
    spread, average = (float(bounds.rows[0][at]) for at in (2, 3))
    assert added == pytest.approx(spread * average, abs=0.01)
    low, high = found.full_between(0, 1) or (np.nan, np.nan)
    assert bounds.rows[0][4] == f"{low:.2f} to {high:.2f}".replace("-", "−")
