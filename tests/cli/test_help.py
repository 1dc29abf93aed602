"""Help: verbs by job in whole sentences, options under headings, choices, names of before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from command_line import Run
from unembed.cli import cli
from unembed.cli.group import JOBS
from unembed.cli.help import Option, summary_of
from unembed.decisions.names import BAND_NAMES, CLASSES, FREQUENCY_NAMES, bands_of_range
from unembed.errors import UnembedError
from unembed.training.recipe.names import OBJECTIVES

LONGEST_HELP = 50
"""Lines that the short help of any verb takes at most; most take 40."""


def verbs(group: click.Group = cli, name: str = "unembed") -> Iterator[tuple[str, click.Command]]:
    for verb in group.commands.values():
        path = f"{name} {verb.name}"
        yield path, verb
        if isinstance(verb, click.Group):
            yield from verbs(verb, path)


def names_in(help_text: str) -> set[str]:
    """The long options that stand at the beginning of a line."""
    lines = (line.split() for line in help_text.splitlines() if line.startswith("  -"))
    return {word.rstrip(",") for words in lines for word in words[:2] if word.startswith("--")}


def test_every_verb_is_listed_under_its_job_in_one_whole_line(run: Run) -> None:
    said = run("--help").out
    assert "..." not in said.partition("Start here:")[2]
    for job, some in JOBS.items():
        [part] = [one for one in said.split("\n\n") if one.startswith(f"{job}:")]
        assert part.splitlines()[1:] == [
            f"  {verb.name!s:<7}  {summary_of(verb)}" for verb in some
        ], job
    listed = {verb for some in JOBS.values() for verb in some}
    assert listed == set(cli.commands.values())


@pytest.mark.parametrize(("path", "verb"), list(verbs()))
def test_help_is_short_has_an_example_and_keeps_rare_options_for_help_all(
    path: str, verb: click.Command, run: Run
) -> None:
    words = path.split()[1:]
    said = run(*words, "--help").out
    assert len(said.splitlines()) <= LONGEST_HELP
    assert "Example:" in said
    assert f"  {path} " in said
    options = [one for one in verb.params if isinstance(one, Option) and not one.hidden]
    rare = {name for one in options if one.rare for name in one.opts if name.startswith("--")}
    often = {name for one in options for name in one.opts if name.startswith("--")} - rare
    assert often <= names_in(said)
    assert not rare & names_in(said)
    if rare:
        assert rare | often <= names_in(run(*words, "--help-all").out)
    assert all(f"\n{one.heading}:\n" in said for one in options if not one.rare)


def test_what_help_says_of_choices_is_what_they_are(run: Run) -> None:
    said = " ".join(run("compare", "--help").out.split())
    assert ", ".join(CLASSES) in said
    assert ", ".join(FREQUENCY_NAMES) in said
    assert ", ".join(OBJECTIVES) in " ".join(run("refine", "--help").out.split())
    assert "[text|model]" in run("sketch", "--help").out


@pytest.mark.parametrize(
    ("option", "known"),
    [
        ("--class", "'entity-like'"),
        ("--frequency", "'100+'"),
        ("--dtype-after", "'bfloat16'"),
        ("--quantize", "'int4'"),
    ],
)
def test_what_is_no_choice_is_refused_in_one_line_before_anything_is_read(
    option: str, known: str, run: Run, tmp_path: Path
) -> None:
    line = run("compare", "a", "b", "c", "-o", tmp_path / "run", option, "x7").line
    assert line.startswith(f"Invalid value for '{option}': 'x7' is not one of ")
    assert known in line
    assert line.endswith("; see unembed compare --help")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("verb", "before", "now"),
    [
        (("sketch", "m", "c"), ("--fisher", "labels"), "--labels"),
        (("sketch", "m", "c"), ("--m=x",), "--size"),
        (("rank", "a", "b"), ("--plug-in",), "--no-debias"),
        (("align", "a", "b"), ("--plug-in",), "--no-debias"),
        (("mix", "a", "b", "c"), ("--plug-in",), "--no-debias"),
    ],
)
def test_names_of_before_are_understood_with_a_note(
    verb: tuple[str, ...], before: tuple[str, ...], now: str, run: Run, tmp_path: Path
) -> None:
    ended = run(*verb, "-o", tmp_path / "out.safetensors", *before)
    note, refusal = ended.err.splitlines()
    name = before[0].partition("=")[0]
    assert note == f"note: {name} is called {now} now"
    assert ended.code == 2
    assert name not in refusal
    assert f"\n  {name} " not in run(verb[0], "--help-all").out


@pytest.mark.parametrize(
    ("given", "meant"),
    [("text", "empirical"), ("model", "true"), ("empirical", "empirical"), ("true", "true")],
)
def test_labels_are_those_of_text_or_model(given: str, meant: str) -> None:
    [option] = [one for one in cli.commands["sketch"].params if one.name == "fisher"]
    context = click.Context(cli.commands["sketch"])
    assert option.type_cast_value(context, given) == meant
    assert option.get_default(context) is not None
    assert option.type_cast_value(context, option.get_default(context)) == "empirical"


@pytest.mark.parametrize(
    ("asked", "bands"),
    [
        ("5+", (4,)),
        (">=5", (4,)),
        ("≥ 1", (2, 3, 4)),
        ("0-0.5", (0,)),
        ("0–.5", (0,)),
        ("0.5 to 2", (1, 2)),
        ("[0.5, 1)", (1,)),
        ("[5, inf)", (4,)),
        ("< 1", (0, 1)),
        ("0+", (0, 1, 2, 3, 4)),
        *((name, (i,)) for i, name in enumerate(BAND_NAMES)),
    ],
)
def test_a_range_of_margins_is_the_bands_that_it_covers(asked: str, bands: tuple[int, ...]) -> None:
    assert bands_of_range(asked) == tuple(BAND_NAMES[i] for i in bands)


@pytest.mark.parametrize(
    "asked", ["", "wide", "3+", "0-0.7", "5-1", "1-1", "<0", "-1-2", "[0, 1, 2)"]
)
def test_what_is_no_range_of_bands_is_refused(asked: str) -> None:
    with pytest.raises(UnembedError, match=r"is none of the bands \[0, 0\.5\).*such as 5\+"):
        bands_of_range(asked)
