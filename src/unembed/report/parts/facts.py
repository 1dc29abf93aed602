"""What produced a run, as label and value for a reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unembed.runs.manifest import MANIFEST, Facts, FinishedRun, read_run
from unembed.runs.provenance import Provenance
from unembed.runs.run_record import Drawn


def facts_of(provenance: Provenance, command: str) -> tuple[tuple[str, str], ...]:
    """Model, text, head, precision, plan, versions and the command that repeats the run."""
    text = provenance.text
    vocab, dim = provenance.head_shape
    padded = f", {vocab - provenance.head_tokens:,} of them no tokens"
    cv = provenance.row_norm_cv
    asked = dict(provenance.options)
    body = asked.pop("body_product")
    stored = asked.pop("hidden_states", None)
    options = ", ".join(f"{name} {value}" for name, value in asked.items())
    facts = [
        ("Model", f"{provenance.model} ({provenance.architecture}, {provenance.model_dtype})"),
        ("Left out of the model", "; ".join(provenance.left_out) or "nothing"),
        ("Model digest", provenance.model_digest[:16]),
        ("Head", f"{provenance.head_recipe}; {'tied' if provenance.head_tied else 'untied'}"),
        (
            "Head size",
            f"{vocab:,} rows of {dim:,}{padded if vocab > provenance.head_tokens else ''}",
        ),
        (
            "Spread of row norms",
            "not finite" if cv is None else f"{cv:.3f} (standard deviation / mean)",
        ),
        *([("Hidden states", in_words(stored))] if stored else []),
        ("Text", text.corpus),
        ("Text digest", text.digest[:16]),
        ("Rows", f"{text.rows:,} in {text.documents:,} documents, {text.tokens:,} tokens"),
        ("Rows left out", f"{text.blank_rows:,} blank, {text.short_rows:,} under two tokens"),
        ("To mind", "; ".join(text.notes) or "nothing"),
        ("Tokenizer", text.tokenizer),
        ("Windows", f"{text.context:,} tokens of context, longer rows: {text.overflow}"),
        (
            "Precision",
            f"float32 logits ({provenance.product_route} product, probed error "
            f"{provenance.product_error:.1e} of |w||h|); body by {body}",
        ),
        (
            "Device",
            f"{provenance.device} ({provenance.cpu}, threads for each batch: {provenance.threads})",
        ),
        (
            "Batches",
            f"{provenance.batch_tokens:,} tokens at most, a longer window alone; "
            f"{provenance.part_positions:,} positions a part",
        ),
        ("Options", options),
        ("Versions", ", ".join(f"{name} {v}" for name, v in provenance.versions.items())),
    ]
    return with_command(facts, command)


def in_words(stored: Mapping[str, Any]) -> str:
    """Where stored hidden states come from, and where they lie, by test."""
    layer = f", {stored['layer']} layers" if "layer" in stored else ""
    side = str(stored["are"]).replace("-", " the final ")
    return f"{stored['from']}{layer}, {side}: of {stored['tried']} tried {stored['seen']}"


def run_of(record: Drawn) -> FinishedRun | None:
    """The finished run that holds a record, if it knows its folder."""
    folder = record.run_folder
    if folder is None or not (folder / MANIFEST).is_file():
        return None
    return read_run(folder)


def command_of(run: FinishedRun | None) -> str:
    """The command that repeats a run; empty of a record in memory."""
    return "" if run is None else run.command


def kept_facts(run: FinishedRun | None) -> Facts:
    """What a run was kept with; nothing of a record in memory."""
    return () if run is None else run.facts


def with_command(facts: Sequence[tuple[str, str]], command: str) -> tuple[tuple[str, str], ...]:
    """The facts, and the command that repeats the run where there is one."""
    return (*facts, ("Command", command)) if command else tuple(facts)


def facts_of_both(
    before: Provenance,
    after: Provenance,
    command: str,
    more_before: Sequence[Provenance] = (),
    more_after: Sequence[Provenance] = (),
) -> tuple[tuple[str, str], ...]:
    """The facts of two runs: once where they agree, of both sides where they do not.

    Of further runs of a side, trained with other seeds, model and digest.
    """
    facts: list[tuple[str, str]] = []
    for (label, old), (_, new) in zip(facts_of(before, ""), facts_of(after, ""), strict=True):
        same = old == new
        facts += [(label, old)] if same else [(f"{label}, before", old), (f"{label}, after", new)]
    for side, runs in (("before", more_before), ("after", more_after)):
        for number, run in enumerate(runs, 2):
            (_, model), _, (_, digest), *_ = facts_of(run, "")
            facts.append((f"Run {number} {side}", f"{model}, digest {digest}"))
    return with_command(facts, command)
