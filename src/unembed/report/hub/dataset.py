"""A run as a folder that ``datasets`` loads: Parquet by configuration, and a README."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from unembed.decisions.audit.audit import Audit
from unembed.decisions.benchmarks.record import ComparedBenchmarks
from unembed.decisions.comparison.compare import Comparison
from unembed.errors import UnembedError
from unembed.report.exports import MADE, for_markdown
from unembed.report.gallery.page import in_words
from unembed.report.parts.wording import capital
from unembed.runs.files import check_output, write_whole
from unembed.runs.frames import Figures
from unembed.runs.run_record import Drawn, RunRecord

Tables = Callable[[], Iterable[pa.Table]]
SPLIT = "train"
"""What the Hub calls rows that are not divided."""
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
MEANINGS = {
    "documents": "a row for each document of the text",
    "samples": "a row for each sample and metric",
    "figures": "every figure with its interval and n",
    "heldout": "a row for each predicted token of held-out text, before and after",
    "training": "a row for each predicted token of the training text, before and after",
    "over-control": "a row for each predicted token, the control against the refined model",
}
"""What the rows of a configuration are."""


def write_dataset(record: RunRecord, folder: Path) -> list[Path]:
    """Write the tables of a run as Parquet, a folder for each, and ``README.md``; where they are.

    ``datasets.load_dataset(folder, name)`` gives the rows of ``to_pandas(text=True)`` of an audit
    or a comparison, and those of ``to_pandas()`` of the figures of any run. A part is held at a
    time. Raises UnembedError where the folder holds what unembed did not make, and where the run
    has no rows.
    """
    found = tables_of(record)
    if not found:
        raise UnembedError(f"a {record.KIND} has no rows that make a data set: take --tables")
    readme = folder / "README.md"
    check_output(readme, _is_ours)
    others = [] if not folder.exists() or readme.exists() else sorted(folder.iterdir())
    if others:
        raise UnembedError(f"{folder} holds other files ({others[0].name}): give a new folder")
    written: list[Path] = []
    rows: dict[str, tuple[int, pa.Schema]] = {}
    for name, tables in found.items():
        for old in (folder / name).glob("part-*.parquet"):
            old.unlink()
        total, schema = 0, None
        for at, table in enumerate(tables()):
            path = folder / name / f"part-{at:05d}.parquet"
            sink = io.BytesIO()
            pq.write_table(table, sink, compression="zstd")
            write_whole(path, sink.getvalue())
            written.append(path)
            total, schema = total + table.num_rows, table.schema
        assert schema is not None
        rows[name] = total, schema
    write_whole(readme, readme_of(record, rows).encode("utf-8", "replace"))
    return [readme, *written]


def tables_of(record: Drawn) -> dict[str, Tables]:
    """The tables of a run by configuration, the one that a viewer shows first at the front."""
    found: dict[str, Tables] = {}
    if isinstance(record, Audit | Comparison):
        documents = record.documents
        found["positions"] = record.spelled_parts
        found["documents"] = lambda: [documents]
    elif isinstance(record, ComparedBenchmarks):
        found["samples"] = lambda: [record.table]
    elif isinstance(record, RunRecord) and record.run_folder is not None:
        for name, inner in record.sub_runs.items():
            if isinstance(inner, Audit | Comparison):
                found[name.replace("/", "-")] = inner.spelled_parts
    holder = record if isinstance(record, Figures) else getattr(record, "summary", None)
    if isinstance(holder, Figures):
        figures = holder.to_arrow()
        found["figures"] = lambda: [figures]
    return found


def readme_of(record: RunRecord, rows: dict[str, tuple[int, pa.Schema]]) -> str:
    """The data set's card: the configurations for ``datasets`` and the viewer, then words."""
    from huggingface_hub import DatasetCardData

    configs = [
        {
            "config_name": name,
            "data_files": [{"split": SPLIT, "path": f"{name}/*.parquet"}],
            **({"default": True} if at == 0 else {}),
        }
        for at, name in enumerate(rows)
    ]
    most = max(total for total, _ in rows.values())
    size = next((words for limit, words in SIZES if most < limit), "n>1M")
    data = DatasetCardData(configs=configs, tags=["unembed", record.KIND], size_categories=[size])
    verdict = record.verdict
    lines = [
        f"---\n# {MADE}\n{data.to_yaml()}\n---\n",
        f"# {capital(in_words(record.KIND))}, measured by unembed\n",
        f"**{for_markdown(verdict.sentence)}**\n",
        *(f"- {for_markdown(point)}" for point in (verdict.quality, verdict.change, verdict.trust)),
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'rows = load_dataset("THIS_FOLDER", "{next(iter(rows))}", split="{SPLIT}")',
        "```\n",
        *_described(rows),
    ]
    return "\n".join(lines)


def _described(rows: dict[str, tuple[int, pa.Schema]]) -> Iterator[str]:
    for name, (total, schema) in rows.items():
        yield f"## {name}\n"
        position = "a row for each predicted token, with its text and what stands before it"
        words = MEANINGS.get(name, position if "target_text" in schema.names else "rows of the run")
        columns = ", ".join(f"`{one.name}` {one.type}" for one in schema)
        yield f"{total:,} rows: {words}.\n\n{columns}.\n"


def _is_ours(start: bytes) -> bool:
    return MADE.encode() in start[:200]
