"""Tables that fit their checksums and hold what no audit holds."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unembed import Audit, audit
from unembed.errors import UnembedError
from unembed.text.corpus import Corpus


@pytest.fixture(scope="module")
def whole(
    llama: Any, small_tokenizer: Any, topics: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("sense") / "run"
    audit(llama, Corpus.from_texts([t[:80] for t in topics[:4]], small_tokenizer), out=folder)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def rewrite(run: Path, edit: Callable[[pa.Table], pa.Table]) -> None:
    """Change a part's table, and the manifest with it."""
    path = run / "tokens/part-00000.parquet"
    table = edit(pq.read_table(path))
    pq.write_table(table, path)
    values = json.loads((run / "manifest.json").read_text())
    del values["sha256"]
    [part] = values["parts"]
    part["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    part["rows"] = table.num_rows
    seal = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    (run / "manifest.json").write_text(json.dumps({**values, "sha256": seal}))


def first(name: str, value: float) -> Callable[[pa.Table], pa.Table]:
    def edit(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index(name)
        values = [value, *table[name].to_pylist()[1:]]
        return table.set_column(at, name, pa.array(values, table.schema.field(at).type))

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (first("target", 1 << 20), "a target of tokens/part-00000.parquet is 1.04858e+06"),
        (first("target", -5), "a target of tokens/part-00000.parquet is -5"),
        (first("top1", 1 << 20), "a top1 of"),
        (first("top2", 480), "a top2 of tokens/part-00000.parquet is 480"),
        (first("doc", -1), "a doc of"),
        (first("doc", 4), "a doc of"),
        (first("margin", -1.0), "a margin of"),
        (first("nll", -3.0), "a nll of"),
        (first("confidence", 1.5), "a confidence of"),
        (lambda table: table.drop_columns(["margin"]), "has no column margin"),
        (
            lambda table: table.set_column(
                table.schema.get_field_index("margin"), "margin", pa.array(["x"] * len(table))
            ),
            "has a column margin of string",
        ),
        (lambda table: table.slice(0, 0), "its tables list 0 positions, its summary"),
        (lambda table: table.slice(0, len(table) // 2), "positions, its summary"),
    ],
)
def test_what_no_audit_holds_is_refused(
    edit: Callable[[pa.Table], pa.Table], said: str, run: Path
) -> None:
    rewrite(run, edit)
    with pytest.raises(UnembedError) as refused:
        Audit.load(run)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_tables_that_are_not_listed_are_not_read(run: Path) -> None:
    """A table that appears after the run was checked, as a run that is resumed elsewhere leaves."""
    found = Audit.load(run)
    shutil.copy(run / "tokens/part-00000.parquet", run / "tokens/part-00001.parquet")
    assert found.table.num_rows == len(found)
