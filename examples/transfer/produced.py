"""Text that programs make: logs, listings of bytecode and syntax, and series of numbers."""

from __future__ import annotations

import ast
import dis
import hashlib
import io
import re
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence

from unembed.demo import Document

MARK = "@@ "
SECONDS = 120
MODULES = 150
"""Modules that are compiled."""
LISTED = 4_000
"""Characters of a listing."""
LOUD = {"antigravity", "this", "idlelib", "test", "turtledemo", "turtle", "tkinter", "lib2to3"}
"""Modules that print, open windows, or hold mostly tests."""
TESTED = (  # noqa: SIM905
    "abc array ast base64 bigmem binascii bisect bool bytes calendar cmath cmd codecs"
    " collections colorsys complex configparser contextlib copy csv dataclasses datetime dict"
    " difflib enum exceptions fileinput float fnmatch format fractions functools generators"
    " getopt glob grammar graphlib gzip hashlib heapq hmac html inspect int io iter itertools"
    " keyword linecache list math mimetypes operator optparse pathlib plistlib pprint"
    " property quopri random range re reprlib sched set shelve shlex slice statistics"
    " string stringprep struct textwrap tokenize traceback tuple types typing"
    " urlparse userdict uuid zlib"
).split()
"""Test modules that are quick, and need nothing but the library."""

RUN_TESTS = """
import sys, unittest, warnings
warnings.simplefilter("ignore")

def single(suite):
    for one in suite:
        yield from single(one) if isinstance(one, unittest.TestSuite) else [one]

for name in sys.argv[1:]:
    try:
        found = unittest.defaultTestLoader.loadTestsFromName("test.test_" + name)
        few = list(single(found))[:15]
    except BaseException:
        continue
    print("@@ " + name, file=sys.stderr, flush=True)
    try:
        unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(unittest.TestSuite(few))
    except BaseException:
        pass
"""
RUN_IMPORTS = """
import importlib, sys, warnings
warnings.simplefilter("ignore")
for name in sys.argv[1:]:
    print("@@ " + name, file=sys.stderr, flush=True)
    try:
        importlib.import_module(name)
    except BaseException:
        pass
"""


def import_traces() -> Iterator[Document]:
    """What ``python -v`` says while it imports the library's modules, one document a module."""
    names = sorted(set(sys.stdlib_module_names) - LOUD)
    return _marked([sys.executable, "-I", "-B", "-v", "-c", RUN_IMPORTS, *names])


def test_logs() -> Iterator[Document]:
    """What some of the library's own tests say when they run, without the times they took."""
    return _marked([sys.executable, "-I", "-B", "-c", RUN_TESTS, *TESTED])


def disassembly(library: Sequence[Document]) -> Iterator[Document]:
    """Bytecode of some of the library's modules, listed by ``dis``."""

    def listing(tree: ast.Module, name: str) -> str:
        out = io.StringIO()
        dis.dis(compile(tree, name, "exec"), file=out)
        return out.getvalue()

    return _compiled(library, listing)


def syntax_trees(library: Sequence[Document]) -> Iterator[Document]:
    """Syntax trees of some of the library's modules, as ``ast.dump`` writes them."""
    return _compiled(library, lambda tree, _name: ast.dump(tree, indent=1))


def number_series() -> Iterator[Document]:
    """Series of whole numbers, a few dozen of each kind."""

    def until_long(terms: Iterator[int], first: str) -> str:
        found = first
        while len(found) < 1_600:
            found += f" {next(terms)}"
        return found + "\n"

    for k in range(24):
        yield Document(f"primes/{k}", until_long(_primes(1 + 997 * k), f"primes from {997 * k}:"))
        yield Document(f"squares/{k}", until_long(_powers(2, 40 * k), f"squares from {40 * k}:"))
        yield Document(f"steps/{k}", until_long(_steps(k, 3 + 7 * k), f"steps of {3 + 7 * k}:"))
        yield Document(f"fibonacci/{k}", until_long(_sums(k, 90 + k), f"sums modulo {90 + k}:"))
        yield Document(
            f"collatz/{k}", until_long(_orbits(27 + 31 * k), f"orbits of {27 + 31 * k}:")
        )
        yield Document(f"residues/{k}", until_long(_residues(3 + k), f"powers of {3 + k}:"))


def _primes(start: int) -> Iterator[int]:
    n = max(start, 2)
    while True:
        if all(n % d for d in range(2, int(n**0.5) + 1)):
            yield n
        n += 1


def _powers(power: int, start: int) -> Iterator[int]:
    n = start
    while True:
        yield n**power
        n += 1


def _steps(start: int, step: int) -> Iterator[int]:
    n = start
    while True:
        yield n
        n += step


def _sums(start: int, modulus: int) -> Iterator[int]:
    a, b = start, 1
    while True:
        yield a
        a, b = b, (a + b) % modulus


def _orbits(start: int) -> Iterator[int]:
    n = start
    while True:
        yield n
        if n == 1:
            start += 2
            n = start
        else:
            n = 3 * n + 1 if n % 2 else n // 2


def _residues(base: int) -> Iterator[int]:
    n = 1
    while True:
        yield n
        n = n * base % 10_007


def _compiled(
    library: Sequence[Document], listing: Callable[[ast.Module, str], str]
) -> Iterator[Document]:
    """A listing of some modules, those whose names' hashes come first."""
    modules = [d for d in library if d.name.endswith(".py") and len(d.text) < 30_000]
    modules.sort(key=lambda d: hashlib.sha256(d.name.encode()).hexdigest())
    for one in modules[:MODULES]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in old files
            try:
                said = listing(ast.parse(one.text), one.name)
            except (SyntaxError, ValueError):
                continue
        said = re.sub(r"frozenset\(\{(.*?)\}\)", _sorted_set, _plain(said))
        middle = max(0, len(said) // 2 - LISTED // 2)
        yield Document(one.name, said[middle : middle + LISTED])


def _sorted_set(found: re.Match[str]) -> str:
    """A set's members in an order that no hash seed changes."""
    return "frozenset({" + ", ".join(sorted(found[1].split(", "))) + "})"


def _marked(command: list[str]) -> Iterator[Document]:
    """What a command writes to its stderr, in a document for each line that is marked."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        said = late.stderr or b""
    else:
        said = done.stderr
    for piece in re.split(f"^{MARK}", said.decode("utf-8", "replace"), flags=re.MULTILINE)[1:]:
        name, _, text = piece.partition("\n")
        yield Document(name, _plain(text)[:LISTED])


def _plain(text: str) -> str:
    """Without what differs from run to run: addresses, times, and where the library lies."""
    text = re.sub(r"0x[0-9a-f]{6,}", "0x7f0000000000", text)
    text = re.sub(r"in \d+\.\d+s", "in 0.010s", text)
    return text.replace(sysconfig.get_path("stdlib"), "/usr/lib/python")
