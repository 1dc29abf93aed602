"""The page of a finished run, from what the run holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def load_run(run: Path) -> Any:
    """Open a finished run of any verb, with every file of it checked."""
    match _kind(run):
        case "comparison":
            from unembed.cells.compare import Comparison

            return Comparison.load(run)
        case "refinement":
            from unembed.refine.train import load_refinement

            return load_refinement(run)
        case "dose":
            from unembed.refine.dose import Doses

            return Doses.load(run)
        case "alignment":
            from unembed.updates.alignment_run import AlignmentRun

            return AlignmentRun.load(run)
        case "ranking":
            from unembed.choice.ranking_run import RankingRun

            return RankingRun.load(run)
        case "mixture":
            from unembed.choice.mixing.run import MixtureRun

            return MixtureRun.load(run)
        case "transfer":
            from unembed.choice.transfer_run import TransferRun

            return TransferRun.load(run)
        case _:
            from unembed.cells.audit import Audit

            return Audit.load(run)


def write_page(done: Any, run: Path, page: Path) -> Path:
    """Draw the page of a finished run to a file; of a refinement, those of its parts too."""
    from unembed.store import read_manifest, write_whole

    command = read_manifest(run).command
    match _kind(run):
        case "comparison":
            html = _comparison_html(done, command)
        case "refinement":
            html = _refinement_html(done, command, page)
        case "dose":
            html = _dose_html(done, run, command)
        case "alignment":
            html = _alignment_html(done, command)
        case "ranking":
            from unembed.report.ranking import ranking_page

            title = f"Which text would help {done.ranking.target}"
            html = ranking_page(done.ranking, title=title, facts=done.facts, command=command)
        case "mixture":
            from unembed.report.mixture import mixture_page

            title = f"What {done.mixture.target} is made of"
            html = mixture_page(done.mixture, title=title, facts=done.facts, command=command)
        case "transfer":
            from unembed.report.transfer import transfer_page

            title = f"Which task helps which: {done.transfer.name}"
            html = transfer_page(
                done.transfer, done.verdicts, title=title, facts=done.facts, command=command
            )
        case _:
            html = _audit_html(done, command)
    write_whole(page, html.encode("utf-8", "replace"))
    return page


def _kind(run: Path) -> str:
    """What a finished run is; an audit does not say."""
    from unembed.store import read_manifest

    return str(read_manifest(run).provenance.get("kind", "audit"))


def _audit_html(done: Any, command: str) -> str:
    from unembed.cells.excerpt import excerpts
    from unembed.report.facts import facts_of
    from unembed.report.page import audit_page

    title = f"Token decisions of {Path(done.provenance.model).name}"
    return audit_page(title, done.summary, facts_of(done.provenance, command), excerpts(done))


def _comparison_html(done: Any, command: str) -> str:
    from unembed.cells.flip_excerpt import flip_excerpts
    from unembed.provenance import Provenance
    from unembed.report.facts import facts_of_both
    from unembed.report.page import comparison_page

    old, new = (Provenance.from_json(done.provenance[side]) for side in ("before", "after"))
    more = [
        [Provenance.from_json(run) for run in done.provenance[side]]
        for side in ("more_before", "more_after")
    ]
    names, first = (done.documents[name].to_pylist() for name in ("name", "first_token"))
    sides = [Path(side.model).name for side in (old, new)]
    if any(more):
        sides = [
            name + f" and {len(n)} more" * bool(n) for name, n in zip(sides, more, strict=True)
        ]
    elif sides[0] == sides[1]:
        sides = [f"{sides[0]} in {old.model_dtype}", new.model_dtype]
    title = f"From {sides[0]} to {sides[1]}: what changed"
    sample = flip_excerpts(done, done.vocabulary, names, first)
    return comparison_page(title, done.summary, facts_of_both(old, new, command, *more), sample)


def _refinement_html(done: Any, command: str, page: Path) -> str:
    from unembed.provenance import Provenance
    from unembed.report.facts import facts_of_both
    from unembed.report.page import refinement_page
    from unembed.store import read_manifest

    heldout, training = (
        os.path.relpath(write_page(part, part.folder, part.folder / "report.html"), page.parent)
        for part in (done.heldout, done.training)
    )
    sides = (done.heldout.provenance[side] for side in ("before", "after"))
    old, new = (Provenance.from_json(side) for side in sides)
    recipe = read_manifest(done.folder).provenance["recipe"]
    facts = facts_of_both(old, new, command)
    title = f"{Path(old.model).name}, refined"
    return refinement_page(title, done.summary, recipe, facts, (heldout, training))


def _dose_html(done: Any, run: Path, command: str) -> str:
    from unembed.cells.audit import Audit
    from unembed.report.facts import facts_of
    from unembed.report.page import dose_page
    from unembed.report.refinement import recipe_facts
    from unembed.store import read_manifest

    start = Audit.load(run / "start" / "heldout").provenance
    recipe = read_manifest(run).provenance["recipe"]
    shared = {name: recipe[name] for name in recipe if name not in ("objective", "weight", "seed")}
    facts = [*recipe_facts(shared), *facts_of(start, command)]
    notes = [f"{name} could not be trained: {reason}." for name, reason in done.failed.items()]
    title = f"{Path(start.model).name}, refined by dose"
    return dose_page(title, done.heldout, done.training, facts, notes)


def _alignment_html(done: Any, command: str) -> str:
    from unembed.report.alignment import alignment_page

    title = f"How alike {len(done.alignments.tasks)} tasks would move the head"
    return alignment_page(done.alignments, title=title, facts=done.facts, command=command)
