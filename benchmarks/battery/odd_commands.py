"""Call every verb with odd values of every option that its --help lists, and count how calls end.

    python benchmarks/battery/odd_commands.py --calls 900 --seed 0

A call may end well, in one line with exit status 2, or in click's own usage message. Prints a table
of counts by verb; exits 1 where a call ends in a traceback, in many lines, or past its time.
"""

from __future__ import annotations

import random
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import click
from commands import call
from made import Made, battery

GOOD = {"done", "refused", "usage"}
ODD = (
    "banana", "", " ", "-1", "0", "1", "3.7", "nan", "inf", "-inf", "1e400", "9" * 30, "é\u202e",
    "\x1b[31m", "../..", "/", "/nonexistent/x", "~", "a=b", "fisher=0.5", "[", "(?P<x", "%s",
    "None", "true", "[]", "{}", "cuda:7", "meta", "float64", "int8", "0-0.5", ",", ";", "-", "--",
)  # fmt: skip


def calls(
    ready: Made, place: Path, count: int, seed: int
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Outcomes by verb, and a line for each that must not be."""
    from unembed import cli

    verbs = list(_commands(cli.cli, ()))
    drawn = random.Random(seed)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    bad: list[str] = []
    for number in range(count):
        path, command = verbs[number % len(verbs)]
        argv = [*path, *_arguments(command, ready, drawn), *_options(command, place, drawn)]
        ended = call(argv, timeout_s=300)
        counts[" ".join(path)][ended.verdict] += 1
        if ended.verdict not in GOOD:
            bad.append(f"{argv}: {ended.verdict}: {ended.err[-500:]}")
    return {kind: dict(row) for kind, row in counts.items()}, bad


def _commands(group: Any, above: tuple[str, ...]) -> Any:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, (*above, name))
        elif name != "demo":  # it takes no input, and a minute
            yield (*above, name), command


def _arguments(command: click.Command, ready: Made, drawn: random.Random) -> list[str]:
    """Arguments that fit, mostly: models, texts, runs, signatures, indexes, adapters, odd words."""
    sound = [ready.model, *ready.texts, ready.place / "adapter", ready.place]
    sound += [one.path for one in ready.artefacts.values()]
    found = []
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            for _ in range(1 if parameter.nargs == 1 else drawn.randint(0, 3)):
                odd = drawn.random() < 0.3
                found.append(
                    str(drawn.choice(ODD) if odd else _fitting(parameter, ready, sound, drawn))
                )
    return found


def _fitting(
    parameter: click.Argument, ready: Made, sound: list[Path], drawn: random.Random
) -> Path:
    name = (parameter.name or "").lower()
    if drawn.random() < 0.2:
        return drawn.choice(sound)
    if "model" in name:
        return ready.model
    if "corpus" in name:
        return ready.texts[0]
    if "folder" in name or "index" in name:
        return ready.artefacts["index"].path
    if "run" in name:
        return drawn.choice([one.path for one in ready.artefacts.values() if one.path.is_dir()])
    if any(word in name for word in ("target", "source", "signature", "file", "task")):
        files = [one.path for kind, one in ready.artefacts.items() if kind.startswith("signature")]
        return drawn.choice([*files, *ready.texts])
    return drawn.choice(sound)


def _options(command: click.Command, place: Path, drawn: random.Random) -> list[str]:
    """Some options with odd values, the output usually a new place, and few steps of training."""
    options = [one for one in command.params if isinstance(one, click.Option)]
    names = {name for one in options for name in one.opts}
    found: list[str] = []
    if "--out" in names and drawn.random() < 0.95:
        fresh = place / "out" / str(drawn.randrange(1 << 30))
        found += ["-o", str(drawn.choice([fresh, fresh, fresh, place / "made", ""]))]
    if "--steps" in names:
        found += ["--steps", "1"]
    if "--quiet" in names:
        found.append("--quiet")
    for option in drawn.sample(options, min(len(options), drawn.randint(1, 3))):
        name = drawn.choice(option.opts)
        if name in ("-o", "--out", "--steps", "--quiet", "--help", "-h"):
            continue
        found.append(name)
        if not option.is_flag:
            found.append(drawn.choice(ODD))
    return found


if __name__ == "__main__":
    sys.exit(battery(__doc__, "verb", "--calls", 900, calls))
