"""A section for a model card: the verdict, the figures as numbers, how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from unembed.report.exports import MADE, as_markdown, for_markdown
from unembed.report.hub.page_words import PageWords, words_of
from unembed.report.hub.results import HubResult, hub_results, results_of
from unembed.report.parts.parts import Section, Table
from unembed.report.parts.plots import sections_of
from unembed.runs.files import check_output, write_output
from unembed.runs.run_record import Drawn

CARD = "card"
"""The folder in a run that holds its card; its files lie as they would in a model's repository."""
MOST_ROWS = 25
"""Rows of a table in a card; longer ones are on the page."""
ABOUT_RESULTS = (
    f"# {MADE}: for the folder .eval_results of the model's repository. The Hub shows a score\n"
    "# where the data set is a registered benchmark and task_id is one of its eval.yaml; id and\n"
    "# task_id are the dataset_path and dataset_name that the harness read.\n"
)


def write_card(record: Drawn, page: Path, folder: Path) -> list[Path]:
    """Write ``README.md`` and, of benchmarks on the Hub, ``.eval_results``; where they are.

    ``page`` is the record's page as it was just drawn, whose words the card repeats. Raises
    UnembedError where a file cannot be written, or is there and not unembed's.
    """
    words = words_of(page.read_text(encoding="utf-8"))
    files = {folder / "README.md": card_of(record, words)}
    for name, one in hub_results(record).items():
        files[folder / ".eval_results" / name] = ABOUT_RESULTS + _entry(one)
    for path in files:
        check_output(path, _is_ours)
    for path, text in files.items():
        write_output(path, text.encode("utf-8", "replace"), _is_ours)
    return list(files)


def _entry(one: HubResult) -> str:
    """One score in YAML, whose strings are written as in JSON."""
    said = {name: json.dumps(word) for name, word in vars(one).items()}
    return (
        f"- dataset:\n    id: {said['dataset']}\n    task_id: {said['task']}\n"
        f"  value: {said['value']}\n  notes: {said['notes']}\n"
    )


def card_of(record: Drawn, words: PageWords) -> str:
    """The Markdown of a card, before it the metadata of the model that the run is about.

    A run about several models or about texts has no metadata. The user's own folder is written ~.
    """
    verdict = record.verdict
    last = f"{verdict.trust} Next: `{verdict.next}`" if verdict.next else verdict.trust
    points = (verdict.quality, verdict.change)
    lines = [
        _metadata(record),
        f"## {for_markdown(words.title)}",
        "",
        f"**{for_markdown(verdict.sentence)}**",
        "",
        *(f"- {for_markdown(point)}" for point in points),
        f"- {for_markdown(verdict.trust)}" + last.removeprefix(verdict.trust),
        "",
        for_markdown(words.extent),
        "",
        *(f"> {for_markdown(note)}\n" for note in words.notes),
        *_headline(words),
        *_figures(sections_of(record)),
        *_made(words.facts),
    ]
    text = "\n".join(lines).rstrip() + "\n"
    home = str(Path.home())
    return text.replace(f"{home}/", "~/") if len(home) > 1 else text


def _metadata(record: Drawn) -> str:
    """The YAML of ``model-index`` between its rules; a mark alone where there is no one model."""
    found = results_of(record)
    if found is None or not found.results:
        return f"<!-- {MADE} -->"
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        model_name=found.model, eval_results=[one.as_eval_result() for one in found.results]
    )
    return f"---\n# {MADE}\n{data.to_yaml()}\n---\n"


def _headline(words: PageWords) -> Iterator[str]:
    if not words.cards:
        return
    yield "| figure | value | 95 % interval | |"
    yield "|:---|---:|---:|:---|"
    for one in words.cards:
        cells = (one.label, one.value, one.interval, one.remark)
        yield f"| {' | '.join(map(for_markdown, cells))} |"
    yield ""


def _figures(sections: Sequence[Section]) -> Iterator[str]:
    """The tables of every figure, folded; long ones are left to the page."""
    for section in sections:
        tables = [(one.title, table) for one in section.figures for table in one.tables]
        tables += [("", table) for table in (*section.tables, *section.folded)]
        short = [(title, table) for title, table in tables if len(table.rows) <= MOST_ROWS]
        if short:
            yield f"<details><summary>{for_markdown(section.title)}</summary>\n"
            for title, table in short:
                if title and title != section.title and not table.heading.startswith(title):
                    yield f"{for_markdown(title)}\n"
                yield _table(table)
            yield "</details>\n"


def _table(table: Table) -> str:
    return as_markdown(table).partition("\n")[2]


def _made(facts: Sequence[tuple[str, str]]) -> Iterator[str]:
    """What the run rests on, and the command that repeats it."""
    rows = [(label, value) for label, value in facts if label != "Command"]
    yield "### How it was made"
    yield ""
    if rows:
        yield "| | |"
        yield "|:---|:---|"
        for label, value in rows:
            yield f"| {for_markdown(label)} | {for_markdown(value)} |"
        yield ""
    command = dict(facts).get("Command")
    if command:
        yield f"```bash\n{command}\n```\n"
    yield "Intervals are 95 %, over documents. Measured by unembed."


def _is_ours(start: bytes) -> bool:
    return MADE.encode() in start[:200]
