"""Records and runs whose values are of another kind than the fields that they are read into."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from unembed.errors import UnembedError
from unembed.runs import manifest
from unembed.runs.record import record_from_json
from unembed.runs.run_record import RunRecord
from unembed.runs.store import RunFolder


@dataclass(frozen=True)
class Inner:
    share: float | None


@dataclass(frozen=True)
class Outer(RunRecord):
    KIND: ClassVar[str] = "outer"

    name: str
    count: int
    sure: bool
    way: Literal["up", "down"]
    inner: tuple[Inner, ...]
    by: dict[str, float]
    note: str = ""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Outer:
        return record_from_json(cls, values)


GOOD: dict[str, Any] = {
    "name": "a",
    "count": 3,
    "sure": True,
    "way": "up",
    "inner": [{"share": 1}, {"share": None}],
    "by": {"a": 0.5},
}


def test_a_field_with_a_default_may_be_missing() -> None:
    found = record_from_json(Outer, GOOD)
    assert found == Outer("a", 3, True, "up", (Inner(1.0), Inner(None)), {"a": 0.5})
    assert record_from_json(Outer, {**GOOD, "note": "n"}).note == "n"


BAD = [
    ("count", "banana", "Outer.count is 'banana', not of type int"),
    ("count", 1.5, "Outer.count is 1.5, not of type int"),
    ("count", True, "Outer.count is True"),
    ("count", None, "Outer.count is None"),
    ("name", 7, "Outer.name is 7, not of type str"),
    ("sure", 1, "Outer.sure is 1, not of type bool"),
    ("way", "left", "Outer.way is 'left', not one of up, down"),
    ("inner", "ab", "Outer.inner is 'ab', not of type list"),
    ("inner", [3], "Outer.inner[0] is 3, not of type dict"),
    ("inner", [{"share": [1]}], "Outer.inner[0].share is [1], not of type float"),
    ("inner", [{}], "Outer.inner[0] has missing or unknown fields 'share'"),
    ("by", [1], "Outer.by is [1], not of type dict"),
    ("by", {"a": "b"}, "Outer.by['a'] is 'b', not of type float"),
    ("more", 1, "Outer has missing or unknown fields 'more'"),
]


@pytest.mark.parametrize(("field", "value", "said"), BAD)
def test_a_value_of_another_kind_is_named(field: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match="Outer") as refused:
        record_from_json(Outer, {**GOOD, field: value})
    assert said in str(refused.value)


SENSELESS = [
    *({}, {**GOOD, "count": "x"}, {"name": "a"}, [1, 2]),
    b"[" * 100_000,
    b"\xff",
]


@pytest.mark.parametrize("summary", SENSELESS, ids=range(len(SENSELESS)))
def test_a_run_that_does_not_make_sense_is_one_line(summary: Any, tmp_path: Path) -> None:
    data = summary if isinstance(summary, bytes) else json.dumps(summary).encode()
    with RunFolder.open(tmp_path / "run", {"kind": "outer", "schema": 1}) as folder:
        folder.write_bytes("summary.json", data)
        folder.finish("")
    with pytest.raises(UnembedError) as refused:
        Outer.load(tmp_path / "run")
    assert "run is no outer that this version can read (" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["manifest.json", "summary.json"])
def test_a_file_that_no_run_writes_is_not_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunFolder.open(tmp_path / "run", {"kind": "outer", "schema": 1}) as folder:
        folder.write_bytes("summary.json", json.dumps(GOOD).encode() + b" " * 4000)
        folder.finish("")
    assert Outer.load(tmp_path / "run")
    size = (tmp_path / "run" / name).stat().st_size
    monkeypatch.setattr(manifest, "MOST_JSON_BYTES", size - 1)
    with pytest.raises(UnembedError, match=f"{name} is damaged .{size:,} bytes"):
        Outer.load(tmp_path / "run")
