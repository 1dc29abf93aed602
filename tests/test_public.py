"""What is public: the names that the stubs list, and nothing else in README, docs and examples."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import unembed
from places import ROOT

PACKAGE = Path(unembed.__file__).parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAM = """
import unembed
from unembed.signatures import merge
from unembed.training import Objective, RefineMixin

checkpoint = unembed.load("model")
audit = unembed.audit(checkpoint.model, unembed.Corpus.read("text.txt", checkpoint.tokenizer))
reveal_type(checkpoint)
reveal_type(audit.summary.median_margin)
reveal_type(unembed.compare(audit, audit).summary.flips.churn.value)
reveal_type(unembed.Recipe(Objective("fisher")).weight)
reveal_type(unembed.training.Weighting().classes)
reveal_type(merge)
reveal_type(unembed.Index.open)
"""
REVEALED = (
    "unembed.models.checkpoint.Checkpoint",
    "unembed.stats.estimate.Estimate",
    "float | None",
    "float",
    "Mapping[str, float]",
    "unembed.signatures.signature.Signature",
    "unembed.selection.index.index.Index",
)


def stubs() -> dict[str, list[str]]:
    """The public names of every package."""
    found = {}
    for path in sorted(PACKAGE.rglob("__init__.pyi")):
        name = ".".join(("unembed", *path.parent.relative_to(PACKAGE).parts))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        [listed] = [ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)]
        assert imported == set(listed), name
        assert len(listed) == len(set(listed)), name
        found[name] = listed
    return found


PUBLIC = stubs()


def programs() -> Iterator[tuple[str, ast.Module]]:
    """The examples, and the Python in README and docs."""
    for path in sorted((ROOT / "examples").rglob("*.py")):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for i, block in enumerate(BLOCK.findall(path.read_text(encoding="utf-8")), 1):
            yield f"{path.relative_to(ROOT)}, block {i}", ast.parse(block)


def imported_names(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Each package and name of ``from unembed.x import y``, and of ``unembed.x.y``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "unembed":
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (
                (alias.name, "") for alias in node.names if alias.name.startswith("unembed.")
            )
        elif isinstance(node, ast.Attribute):
            package = ast.unparse(node.value)
            if package in PUBLIC:
                yield package, node.attr


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_resolves_and_says_what_it_is(package: str) -> None:
    module = import_module(package)
    assert sorted(module.__all__) == sorted(PUBLIC[package])
    for name in PUBLIC[package]:
        thing = getattr(module, name)
        doc = inspect.getdoc(thing) if not isinstance(thing, tuple) else "a constant"
        assert doc, f"{package}.{name}"
        assert not doc.startswith(f"{name}("), f"{package}.{name} has a dataclass's own docstring"


@pytest.mark.parametrize("package", PUBLIC)
def test_no_public_name_hides_a_module(package: str) -> None:
    folder = PACKAGE.joinpath(*package.split(".")[1:])
    modules = {path.stem for path in folder.glob("*.py")}
    modules |= (
        {path.parent.name for path in folder.glob("*/__init__.py")} if folder != PACKAGE else set()
    )
    assert not modules & set(PUBLIC[package])


def test_a_name_is_public_in_one_place() -> None:
    every = [name for names in PUBLIC.values() for name in names]
    assert sorted(every) == sorted(set(every))


def test_the_top_has_two_dozen_names() -> None:
    names = [name for name in PUBLIC["unembed"] if f"unembed.{name}" not in PUBLIC]
    assert len(names) <= 28


def test_readme_docs_and_examples_use_public_names_only() -> None:
    private, seen = [], 0
    for where, tree in programs():
        for package, name in imported_names(tree):
            seen += 1
            if name not in PUBLIC.get(package, ()):
                private.append(f"{where}: {package} {name}")
    assert private == []
    assert seen > 50


def test_an_import_loads_neither_torch_nor_transformers() -> None:
    program = "import sys, unembed; print(*{'torch', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.slow
def test_a_type_checker_sees_types(tmp_path: Path) -> None:
    assert (PACKAGE / "py.typed").exists()
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    # As `make check` calls it, whose memory of every module it finds: a second, not half a minute.
    done = subprocess.run(
        [sys.executable, "-m", "mypy", program],
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": "src"},
        capture_output=True,
        text=True,
    )
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert len(revealed) == len(REVEALED), done.stdout + done.stderr
    for found, expected in zip(revealed, REVEALED, strict=True):
        assert expected in found
        assert "Any" not in found
    assert "error" not in done.stdout, done.stdout
