"""The page of a finished run, from what the run holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def load_run(run: Path) -> Any:
    """Open a finished run of any verb, with every file of it checked."""
    match _kind(run):
        case "comparison":
            from unembed.decisions.comparison.compare import Comparison

            return Comparison.load(run)
        case "refinement":
            from unembed.training.run.train import load_refinement

            return load_refinement(run)
        case "dose":
            from unembed.training.doses.dose import Doses

            return Doses.load(run)
        case "alignment":
            from unembed.signatures.alignment.run import AlignmentRun

            return AlignmentRun.load(run)
        case "ranking":
            from unembed.selection.ranking.run import RankingRun

            return RankingRun.load(run)
        case "mixture":
            from unembed.selection.mixing.run import MixtureRun

            return MixtureRun.load(run)
        case "transfer":
            from unembed.selection.transfer.run import TransferRun

            return TransferRun.load(run)
        case _:
            from unembed.decisions.audit.audit import Audit

            return Audit.load(run)


def write_page(done: Any, run: Path, page: Path) -> Path:
    """Draw the page of a finished run to a file; of a refinement, those of its parts too."""
    from unembed.runs.store import read_manifest, write_whole

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
            from unembed.report.ranking.page import ranking_page

            title = f"Which text would help {done.ranking.target}"
            html = ranking_page(done.ranking, title=title, facts=done.facts, command=command)
        case "mixture":
            from unembed.report.mixture.page import mixture_page

            title = f"What {done.mixture.target} is made of"
            html = mixture_page(done.mixture, title=title, facts=done.facts, command=command)
        case "transfer":
            from unembed.report.transfer.page import transfer_page

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
    from unembed.runs.store import read_manifest

    return str(read_manifest(run).provenance.get("kind", "audit"))


def _audit_html(done: Any, command: str) -> str:
    from unembed.decisions.audit.excerpt import excerpts
    from unembed.report.audit.page import audit_page
    from unembed.report.parts.facts import facts_of

    title = f"Token decisions of {Path(done.provenance.model).name}"
    return audit_page(title, done.summary, facts_of(done.provenance, command), excerpts(done))


def _comparison_html(done: Any, command: str) -> str:
    from unembed.decisions.comparison.excerpt import flip_excerpts
    from unembed.report.comparison.page import comparison_page
    from unembed.report.parts.facts import facts_of_both
    from unembed.runs.provenance import Provenance

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
    from unembed.report.parts.facts import facts_of_both
    from unembed.report.refinement.page import refinement_page
    from unembed.runs.provenance import Provenance
    from unembed.runs.store import read_manifest

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
    from unembed.decisions.audit.audit import Audit
    from unembed.report.dose.page import dose_page
    from unembed.report.parts.facts import facts_of
    from unembed.report.refinement.page import recipe_facts
    from unembed.runs.store import read_manifest

    start = Audit.load(run / "start" / "heldout").provenance
    recipe = read_manifest(run).provenance["recipe"]
    shared = {name: recipe[name] for name in recipe if name not in ("objective", "weight", "seed")}
    facts = [*recipe_facts(shared), *facts_of(start, command)]
    notes = [f"{name} could not be trained: {reason}." for name, reason in done.failed.items()]
    title = f"{Path(start.model).name}, refined by dose"
    return dose_page(title, done.heldout, done.training, facts, notes)


def _alignment_html(done: Any, command: str) -> str:
    from unembed.report.alignment.page import alignment_page

    title = f"How alike {len(done.alignments.tasks)} tasks would move the head"
    return alignment_page(done.alignments, title=title, facts=done.facts, command=command)
