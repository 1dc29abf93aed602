"""Every command and every snippet of README and the guides runs, in order, on a small model."""

from __future__ import annotations

import copy
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair
import click
import pytest
import torch

from command_line import invoke
from made_up.logs import write_logs
from places import ROOT

BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
GUIDES = [
    ROOT / "README.md",
    ROOT / "docs" / "index.md",
    ROOT / "docs" / "start.md",
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
]
QUOTED = [
    *GUIDES,
    ROOT / "docs" / "findings.md",
    *sorted((ROOT / "docs" / "findings").glob("*")),
    *sorted((ROOT / "docs" / "decisions").glob("*")),
]
INLINE = re.compile(r"`((?:unembed |python (?:examples|benchmarks)/|make )[^`]+)`")
LONG = ("refine.md", "compare-a-quantisation.md", "many-runs.md")
"""Guides whose commands train, or draw many pages."""
SHORTER = {"refine": ("--steps", "3"), "dose": ("--steps", "2")}
"""What a page's command gets behind it: options of a training that is as real, and sooner done."""
ELSEWHERE = ("demo",)
"""Verbs that `make demo` and the wheel's test run: they take minutes."""


@dataclass(frozen=True)
class Place:
    """A folder with what the guides name, and the commands that ran there already."""

    folder: Path
    done: set[str]


def names(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block that a reader would run."""
    return BLOCK.findall(page.read_text("utf-8"))


def commands(text: str) -> Iterator[str]:
    """The lines of a block, those with a backslash at their end joined."""
    for line in text.replace("\\\n", " ").splitlines():
        command = line.split("  #")[0].strip()
        if command and not command.startswith("#"):
            yield command


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, llama: Any, tokenizer: Any, topics: list[str]
) -> Place:
    """A small model, some near it, and texts in every form that the guides use."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("guides")
    for seed, name in enumerate(("my-model", "tuned", "tuned-2", "large", "small")):
        model = copy.deepcopy(llama)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            for weight in model.parameters():
                weight += 0.002 * seed * torch.randn(weight.shape, generator=generator)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for i, name in enumerate(("reviews", "target")):
        rows = [json.dumps({"text": topic, "body": topic}) for topic in topics[i::2]]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    (folder / "manuals.txt").write_text("\n".join(topics[::3]))
    (folder / "my-terms.txt").write_text("lambda\nexpression\nstatement\n")
    pq.write_table(pa.table({"text": topics[1::3]}), folder / "web.parquet")
    return Place(folder, set())


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.name in LONG), id=names(p)) for p in GUIDES],
)
def test_a_guide_runs_from_top_to_bottom(
    page: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.folder)
    own_loop = page.name == "head-loss.md"
    known: dict[str, Any] = variables() if own_loop else {}
    with altair.renderers.enable("default"):  # whatever a page chooses is undone
        for language, text in blocks(page):
            if language == "python":
                exec(compile(text, names(page), "exec"), known)
                continue
            for command in commands(text):
                if command not in place.done:
                    place.done.add(command)
                    follow(command)


def follow(command: str) -> None:
    """Run a command of ours; of another program, see that what it names is there."""
    words = shlex.split(command)
    if words[0] == "unembed":
        if words[1] in ELSEWHERE:
            check_options(words[1:])
        else:
            assert invoke(*words[1:], *SHORTER.get(words[1], ())) == 0, command
    else:
        check_program(words)


def check_program(words: list[str]) -> None:
    """A program's file, a target of the Makefile or an extra that a page names is there.

    The harness of benchmarks is not run: logs of its layout are written where it would.
    """
    match words:
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        case ["pip", "install", what]:
            project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
            name, _, extras = what.rstrip("]").partition("[")
            assert name == project["name"]
            assert set(filter(None, extras.split(","))) <= set(project["optional-dependencies"])
        case ["torchrun" | "accelerate", *launched] if "unembed" in launched:
            check_options(launched[launched.index("unembed") + 1 :])
        case ["python", file, *_]:
            assert (ROOT / file).exists(), file
        case ["torchrun" | "accelerate", *launched]:
            [file] = [word for word in launched if word.endswith(".py")]
            assert (ROOT / file).exists(), file
        case ["lm_eval", *_, "--log_samples", "--output_path", folder]:
            write_logs(Path(folder), {"arc_challenge": {"acc": [0.0, 1.0, 1.0, 0.0, 1.0]}})
        case _:
            pytest.fail(f"nothing checks {shlex.join(words)!r}")


def check_options(words: list[str]) -> None:
    """The verb takes these options: it is parsed, and not called."""
    from unembed.cli import cli

    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, words
        command, words = found, words[1:]
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    known |= {"-h", "--help"}
    strange = [word for word in words if re.match(r"--?[a-z]", word) and word not in known]
    assert strange == [], shlex.join(words)


def variables() -> dict[str, Any]:
    """What the first snippet on head_loss has already: a model and hidden states."""
    import unembed
    from unembed.head import final_hidden

    checkpoint = unembed.load("./my-model")
    ids = torch.tensor(
        [checkpoint.tokenizer("A margin is a difference of two logits.")["input_ids"]]
    )
    hidden = final_hidden(checkpoint.model, ids)[0, :-1].detach().requires_grad_()
    return {"model": checkpoint.model, "hidden": hidden, "targets": ids[0, 1:]}


@pytest.mark.parametrize("page", QUOTED, ids=names)
def test_commands_inside_of_sentences_exist(page: Path) -> None:
    for quoted in INLINE.findall(page.read_text("utf-8")):
        words = shlex.split(" ".join(quoted.split()).split(" …")[0])
        if words[0] == "unembed":
            check_options(words[1:])
        else:
            check_program(words)


def test_no_block_of_the_guides_is_left_out() -> None:
    """A block says its language; one without is something to read."""
    for page in GUIDES:
        assert not re.search(r"^```(sh|shell|console|py)$", page.read_text("utf-8"), re.MULTILINE)
        for _language, text in blocks(page):
            assert text.strip(), page


def test_no_two_commands_of_the_guides_write_to_one_place() -> None:
    """A reader who follows two guides in one folder loses nothing, and neither is refused."""
    written: dict[str, str] = {}
    for page in GUIDES:
        for language, text in blocks(page):
            for command in commands(text) if language == "bash" else ():
                words = shlex.split(command)
                if words[0] != "unembed" or "-o" not in words:
                    continue
                place = words[words.index("-o") + 1]
                first = written.setdefault(place, command)
                assert first == command, f"{place} of {names(page)}"
