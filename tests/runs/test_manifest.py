"""Manifests that someone wrote: sealed as they should be, and saying what no run says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unembed.errors import UnembedError
from unembed.runs.manifest import MANIFEST, read_run, verified_run
from unembed.runs.store import RunFolder

KEY = {"kind": "ranking", "schema": 1}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    with RunFolder.open(folder, KEY) as opened:
        opened.write_bytes("tokens/a.bin", b"a", rows=1)
        opened.finish("unembed rank", {"n": 1})
    return folder


def rewrite(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest, and seal it again."""
    values = json.loads((run / MANIFEST).read_text())
    del values["sha256"]
    change(values)
    seal = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    (run / MANIFEST).write_text(json.dumps({**values, "sha256": seal}))


def part(field: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda values: values["parts"][0].update({field: value})


def whole(field: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda values: values.update({field: value})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (part("path", "../victim"), "'../victim', which is no path inside the run"),
        (part("path", "/etc/passwd"), "no path inside the run"),
        (part("path", "tokens//a.bin"), "no path inside the run"),
        (part("path", "."), "no path inside the run"),
        (part("path", ""), "no path inside the run"),
        (part("path", "a\0b"), "no path inside the run"),
        (part("path", 7), "lists 7, which is no path"),
        (part("rows", -1), "-1 rows of tokens/a.bin"),
        (part("rows", "many"), "'many' rows of"),
        (part("rows", True), "True rows of"),
        (part("sha256", "0"), "'0' as the SHA-256"),
        (part("sha256", None), "None as the SHA-256"),
        (part("more", 1), "more"),
        (whole("provenance", "me"), "its provenance is no object"),
        (whole("command", 3), "its command no text"),
        (whole("files", 3), "not iterable"),
    ],
)
def test_a_manifest_that_says_what_none_says(
    change: Callable[[dict[str, Any]], None], said: str, run: Path
) -> None:
    rewrite(run, change)
    with pytest.raises(UnembedError) as refused:
        read_run(run)
    assert said in str(refused.value)
    assert "manifest.json is damaged" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_summary_that_is_not_listed_is_not_read(run: Path) -> None:
    rewrite(run, whole("files", []))
    with pytest.raises(UnembedError, match=r"does not list summary\.json"):
        verified_run(run, "ranking", 1).summary()
