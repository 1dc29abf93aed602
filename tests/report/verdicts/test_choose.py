"""The verdicts of the verbs that choose data stand on their pages, and their commands are there."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click import Command, Context, Group

from made_up.alignments import example
from made_up.selection import mixture, plane, ranking, transfer, verdicts
from unembed.cli.group import cli
from unembed.report.verdicts.verdict import verdict_of
from unembed.runs.run_record import Drawn
from unembed.selection.transfer.judged import JudgedTransfer
from unembed.stats.estimate import Estimate

RECORDS: dict[str, Callable[[], Drawn]] = {
    "ranking": lambda: ranking(5, missing=1),
    "ranking, few": lambda: replace(ranking(5, by="error"), documents=3),
    "ranking, random": lambda: ranking(5, by="random"),
    "mixture": lambda: mixture(5),
    "mixture, none": lambda: replace(mixture(5), residual=Estimate(0.9, 0.8, 1.0)),
    "mixture, few": lambda: replace(mixture(5, warnings=("few",)), documents=3, by="error"),
    "alignment": lambda: example(6),
    "alignment, few": lambda: example(6, missing=(2,)),
    "transfer": lambda: JudgedTransfer(transfer(8), verdicts()),
    "transfer, baseline": lambda: JudgedTransfer(
        transfer(8, methods=("unigram_loss",)), verdicts(("unigram_loss",))
    ),
    "index": lambda: plane(12),
    "index, empty": lambda: plane(0),
}


@pytest.mark.parametrize("name", RECORDS)
def test_the_page_shows_the_words_of_the_terminal(name: str, tmp_path: Path) -> None:
    record = RECORDS[name]()
    page = record.report(tmp_path / "page.html").read_text(encoding="utf-8")
    header = re.sub("<[^>]*>", "", page[page.index('class="reading"') : page.index("</header>")])
    shown = re.sub("[ \n]+", " ", html.unescape(header))
    found = verdict_of(record)
    for line in (found.sentence, *found.bullets):
        assert line in shown


@pytest.mark.parametrize("name", RECORDS)
def test_the_next_command_is_one_that_is_there(name: str) -> None:
    _unembed, *words = shlex.split(verdict_of(RECORDS[name]()).next) or ["", "demo"]
    command: Command = cli
    while isinstance(command, Group):
        found = command.get_command(Context(command), words.pop(0))
        assert found is not None
        command = found
    known = {option for one in command.params for option in one.opts}
    assert {word for word in words if word.startswith("-")} <= known
