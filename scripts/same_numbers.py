"""Make the same runs with two versions of unembed, and compare what they hold byte by byte.

    python scripts/same_numbers.py make before     # with the one version installed
    python scripts/same_numbers.py make after      # with the other
    python scripts/same_numbers.py compare before after

``make`` audits, rounds, sketches, ranks and refines the bundled model on a text that every Python
carries. ``compare`` holds every table and tensor to the byte and every value of every summary to
the digit; what a manifest says of versions and commands is not compared. ``--except REGEX`` names
values, by their path, that are meant to differ: they are counted and listed, not failed.
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

RECIPE = ("--steps", "10", "--seed", "0", "--learning-rate", "1e-4", "--watch-every", "5")


def main() -> int:
    """Parse the command line; the exit status is 1 where a number moved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    made = verbs.add_parser("make", help="make the runs")
    made.add_argument("folder", type=Path)
    held = verbs.add_parser("compare", help="compare two folders of runs")
    held.add_argument("before", type=Path)
    held.add_argument("after", type=Path)
    held.add_argument("--except", dest="meant", action="append", default=[], metavar="REGEX")
    given = parser.parse_args()
    if given.verb == "make":
        make(given.folder)
        return 0
    return compare(given.before, given.after, [re.compile(one) for one in given.meant])


def make(folder: Path) -> None:
    """Every run that is compared, by the command line of the installed version."""
    folder.mkdir(parents=True)
    spec = find_spec("unembed")
    assert spec is not None
    assert spec.origin is not None
    model = Path(spec.origin).parent / "demo" / "model"
    texts = write_texts(folder)
    audit = ("--top-k", "5", "--facets", "--context", "256")
    signatures = [folder / f"{text.stem}.safetensors" for text in texts]

    def run(*argv: object) -> None:
        command = [sys.executable, "-m", "unembed", *map(str, argv), "--quiet"]
        print(" ".join(command[2:]), flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    run("audit", model, texts[0], "-o", folder / "audit", *audit, "--sketch")
    half = ("--dtype", "bfloat16", "--native-head")
    run("audit", model, texts[0], "-o", folder / "audit16", *audit, *half)
    run("compare", folder / "audit", folder / "audit16", "-o", folder / "comparison")
    run("compare", model, texts[1], "--quantize", "int8", "--context", "256", "-o", folder / "live")
    for text, signature in zip(texts, signatures, strict=True):
        run("sketch", model, text, "-o", signature, "--context", "256", "--first-moment")
    run("align", *signatures, "-o", folder / "alignment")
    run("rank", *signatures, "-o", folder / "ranking")
    run("mix", *signatures, "-o", folder / "mixture")
    run("refine", model, texts[2], "-o", folder / "refinement", *RECIPE, "--context", "256")


def write_texts(folder: Path) -> list[Path]:
    """Documentation topics of Python, a row a paragraph, dealt out to four texts."""
    topics = pydoc_data.topics.topics
    texts = []
    for nth, name in enumerate(("target", "first", "second", "third")):
        texts.append(folder / f"{name}.txt")
        rows = (
            " ".join(paragraph.split())
            for topic in sorted(topics)[nth::4]
            for paragraph in topics[topic].split("\n\n")
            if paragraph.strip()
        )
        texts[-1].write_text("\n".join(rows), encoding="utf-8")
    return texts


def compare(before: Path, after: Path, meant: list[re.Pattern[str]]) -> int:
    """Print what differs, and count what does not."""
    wrong: list[str] = []
    expected: list[str] = []
    files = values = 0
    names = [{str(path.relative_to(at)) for path in contents(at)} for at in (before, after)]
    wrong += [f"{name}: in one of them alone" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        old, new = before / name, after / name
        if name.endswith("summary.json"):
            one, two = (dict(leaves(json.loads(path.read_text()))) for path in (old, new))
            values += len(one)
            for at in sorted({*one, *two}):
                if one.get(at) != two.get(at):
                    line = f"{name} {at}: {one.get(at)} -> {two.get(at)}"
                    known = any(pattern.search(f"{name} {at}") for pattern in meant)
                    (expected if known else wrong).append(line)
        else:
            files += 1
            if tensors(old) != tensors(new):
                wrong.append(f"{name}: other bytes")
    for title, lines in (("meant to differ", expected), ("DIFFERENT", wrong)):
        print(f"{title}: {len(lines)}", *lines[:40], sep="\n  ")
    print(f"compared: {files} files to the byte, {values:,} values of summaries")
    return 1 if wrong else 0


def contents(folder: Path) -> Iterator[Path]:
    """The files whose numbers must not move."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".parquet", ".safetensors") or path.name == "summary.json":
            yield path


def tensors(path: Path) -> bytes:
    """The bytes of a file; of safetensors without their header, which says what wrote them."""
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return data
    return data[8 + int.from_bytes(data[:8], "little") :]


def leaves(values: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value by its path; lists of numbers are one value."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from leaves(value, f"{at}.{name}" if at else name)
    elif isinstance(values, list) and any(isinstance(one, dict | list) for one in values):
        for nth, value in enumerate(values):
            yield from leaves(value, f"{at}[{nth}]")
    else:
        yield at, values


if __name__ == "__main__":
    sys.exit(main())
