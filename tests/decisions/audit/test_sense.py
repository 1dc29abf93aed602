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

from unembed import Audit, Comparison, audit, compare
from unembed.errors import UnembedError
from unembed.text.corpus import Corpus

PART = "tokens/part-00000.parquet"


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


def rewrite(
    run: Path,
    edit: Callable[[pa.Table], pa.Table],
    name: str = PART,
    rows: int | None = None,
) -> None:
    """Change a table, and the manifest with it, which lists ``rows`` or as many as there are."""
    path = run / name
    table = edit(pq.read_table(path))
    pq.write_table(table, path)
    values = json.loads((run / "manifest.json").read_text())
    del values["sha256"]
    [part] = [part for part in (*values["parts"], *values["files"]) if part["path"] == name]
    part["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    part["rows"] = table.num_rows if rows is None else rows
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
        (lambda table: table.drop_columns(["logsumexp"]), "has no column logsumexp"),
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


def test_a_table_with_other_rows_than_the_manifest_lists_is_refused(run: Path) -> None:
    n = len(Audit.load(run))
    rewrite(run, lambda table: table.slice(1), rows=n)
    with pytest.raises(UnembedError, match=f"part-00000.parquet has {n - 1} rows of {n}"):
        Audit.load(run)


def test_documents_that_are_not_all_named_are_refused(run: Path) -> None:
    rewrite(run, lambda table: table.slice(1), "documents.parquet")
    with pytest.raises(UnembedError, match="it names 3 documents of 4"):
        Audit.load(run)


@pytest.fixture(scope="module")
def compared(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared") / "run"
    compare(Audit.load(whole), Audit.load(whole), resamples=5, out=folder)
    return folder


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (first("target", 480), "a target of tokens/part-00000.parquet is 480"),
        (first("before_top1", -1), "a before_top1 of"),
        (first("after_top2", 480), "a after_top2 of"),
        (first("doc", 4), "a doc of"),
        (first("after_margin", -1.0), "a after_margin of"),
        (first("before_confidence", 1.5), "a before_confidence of"),
        (lambda table: table.drop_columns(["after_nll"]), "has no column after_nll"),
        (lambda table: table.slice(1), "positions, and its summary counts"),
    ],
)
def test_what_no_comparison_holds_is_refused(
    edit: Callable[[pa.Table], pa.Table], said: str, compared: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(compared, tmp_path / "run"))
    assert len(Comparison.load(run).table) == Comparison.load(run).summary.n_positions
    rewrite(run, edit)
    with pytest.raises(UnembedError) as refused:
        Comparison.load(run)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", [Audit, Comparison])
def test_tables_that_are_not_listed_are_not_read(
    kind: type[Audit | Comparison], whole: Path, compared: Path, tmp_path: Path
) -> None:
    """A table that appears after the run was checked, as a run that is resumed elsewhere leaves."""
    run = Path(shutil.copytree(whole if kind is Audit else compared, tmp_path / "run"))
    found = kind.load(run)
    shutil.copy(run / "tokens/part-00000.parquet", run / "tokens/part-00001.parquet")
    assert found.table.num_rows == len(found)
