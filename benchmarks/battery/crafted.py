"""Craft artefacts whose checksums fit and whose contents cannot be, and see that each is refused.

    python benchmarks/battery/crafted.py

Unlike corruption, which checksums catch, a crafted file was made by someone: paths that lead out of
the run, counts that are not those of the rows, targets beyond the vocabulary, fields that are
missing or of another kind, numbers that no run gives, headers of absurd sizes, a checkpoint that
wants its own code run. Each must be refused in one line with exit status 2, within a second beyond
start-up, and touch nothing outside. Prints a table of counts; exits 1 on anything else.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from commands import call, scratch, table, warm
from made import Artefact, Made, made

Change = Callable[[Path], None]
SLOWEST_S = 10.0
"""Of a refusal, on a machine that does other things: it bounds a hang, and measures nothing."""


def main() -> int:
    """Make, craft, read."""
    warm()
    place = scratch("crafted")
    counts, bad = crafted(made(place / "made"), place)
    print(table(counts, "artefact"))
    for line in bad:
        print(line, file=sys.stderr)
    shutil.rmtree(place)
    return 1 if bad else 0


def crafted(
    ready: Made, place: Path, every: int = 1
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Outcomes by kind of artefact, and a line for each that must not be; one case in ``every``."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    bad: list[str] = []
    for kind, name, change, read, source in list(cases(ready))[::every]:
        work = place / "copy"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        copy = work / source.name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy)
        victim = work / "victim.parquet"
        victim.write_bytes(b"someone's")
        change(copy)
        ended = call([word.replace("OUT", str(copy)) for word in read], timeout_s=30)
        outcome = ended.verdict
        if outcome == "refused" and ended.seconds > SLOWEST_S:
            outcome = "slow"
        if not victim.exists() or victim.read_bytes() != b"someone's":
            outcome = "TOUCHED"
        counts[kind][outcome] += 1
        if outcome != "refused":
            bad.append(f"{kind}: {name}: {outcome} in {ended.seconds:.1f} s: {ended.err[-400:]}")
    return {kind: dict(row) for kind, row in counts.items()}, bad


def cases(ready: Made) -> Iterator[tuple[str, str, Change, list[str], Path]]:
    """Kind, name, what is changed in a copy, the command that reads it, and what is copied."""
    runs = ("audit", "comparison", "alignment", "ranking", "mixture", "refinement", "grid")
    for kind in runs:
        one = ready.artefacts[kind]
        for name, change in MANIFESTS.items():
            yield kind, name, _manifest(change), list(one.read), one.path
        for name, edit in SUMMARIES.items():
            yield kind, name, _summary(edit), list(one.read), one.path
    audit = ready.artefacts["audit"]
    for name, rows in TOKENS.items():
        yield "audit", name, _tokens(rows), list(audit.read), audit.path
    signature = _signature_of(ready)
    for name, header in HEADERS.items():
        yield "signature", name, _header(header), list(signature.read), signature.path
    index = ready.artefacts["index"]
    for name, head in INDEXES.items():
        yield "index", name, _index(head), list(index.read), index.path
    corpus = str(ready.texts[0])
    audit_it = ["audit", "OUT", corpus, "-o", "OUT.run", "--context", "32", "--quiet"]
    for name, config in CONFIGS.items():
        yield "checkpoint", name, _config(config), audit_it, ready.model


def _signature_of(ready: Made) -> Artefact:
    return ready.artefacts["signature target"]


def sealed(values: dict[str, Any]) -> bytes:
    """A manifest with the checksum that it states of itself."""
    values.pop("sha256", None)
    seal = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return json.dumps({**values, "sha256": seal}).encode()


def _manifest(change: Callable[[dict[str, Any]], None]) -> Change:
    def apply(run: Path) -> None:
        values = json.loads((run / "manifest.json").read_text())
        change(values)
        (run / "manifest.json").write_bytes(sealed(values))

    return apply


def _relisted(run: Path, path: Path, rows: int | None = None) -> None:
    """Write into the manifest the checksum that a crafted file has."""
    values = json.loads((run / "manifest.json").read_text())
    name = path.relative_to(run).as_posix()
    for part in (*values["parts"], *values["files"]):
        if part["path"] == name:
            part["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            part["rows"] = part["rows"] if rows is None else rows
    (run / "manifest.json").write_bytes(sealed(values))


def _summary(edit: Callable[[Any], Any]) -> Change:
    def apply(run: Path) -> None:
        path = run / "summary.json"
        path.write_text(json.dumps(edit(json.loads(path.read_text()))))
        _relisted(run, path)

    return apply


def _tokens(edit: Callable[[pa.Table], pa.Table]) -> Change:
    def apply(run: Path) -> None:
        path = sorted(run.glob("tokens/part-*.parquet"))[0]
        found = edit(pq.read_table(path))
        pq.write_table(found, path)
        _relisted(run, path, found.num_rows)

    return apply


def _header(edit: Callable[[dict[str, Any]], None]) -> Change:
    def apply(file: Path) -> None:
        data = file.read_bytes()
        size = int.from_bytes(data[:8], "little")
        values = json.loads(data[8 : 8 + size])
        edit(values)
        text = json.dumps(values).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])

    return apply


def _own(edit: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """An edit of what the header says of the signature, under whatever key it is kept."""

    def apply(values: dict[str, Any]) -> None:
        [key] = [name for name in values["__metadata__"] if name.startswith("unembed")]
        inner = json.loads(values["__metadata__"][key])
        edit(inner)
        values["__metadata__"][key] = json.dumps(inner)

    return apply


def _index(edit: Callable[[dict[str, Any]], None]) -> Change:
    def apply(folder: Path) -> None:
        path = folder / "index.json"
        values = json.loads(path.read_text())
        edit(values)
        path.write_bytes(sealed(values) if "sha256" in values else json.dumps(values).encode())

    return apply


def _config(edit: Callable[[dict[str, Any], Path], None]) -> Change:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        values = json.loads(path.read_text())
        edit(values, folder)
        path.write_text(json.dumps(values))

    return apply


def _set(at: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set a field by its dotted path; a number is a place in a list."""

    def apply(values: Any) -> None:
        *above, last = at.split(".")
        for name in above:
            values = values[int(name)] if isinstance(values, list) else values[name]
        if isinstance(values, list):
            values[int(last)] = value
        else:
            values[last] = value

    return apply


def _drop(at: str) -> Callable[[dict[str, Any]], None]:
    def apply(values: Any) -> None:
        *above, last = at.split(".")
        for name in above:
            values = values[int(name)] if isinstance(values, list) else values[name]
        del values[last]

    return apply


def _every(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """A change of the first file that the manifest lists, part or not."""

    def apply(values: dict[str, Any]) -> None:
        change((values["parts"] or values["files"])[0])

    return apply


MANIFESTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "a path out of the run": _every(_set("path", "../victim.parquet")),
    "an absolute path": _every(_set("path", "/etc/passwd")),
    "a path to the folder": _every(_set("path", ".")),
    "a path of a number": _every(_set("path", 7)),
    "an empty path": _every(_set("path", "")),
    "a path with a zero byte": _every(_set("path", "a\0b")),
    "negative rows": _every(_set("rows", -1)),
    "rows of text": _every(_set("rows", "many")),
    "no checksum": _every(_drop("sha256")),
    "an unknown field": _every(_set("more", 1)),
    "no files": _drop("files"),
    "files of text": _set("files", "all"),
    "nothing listed": lambda values: values.update(parts=[], files=[]),
    "provenance of text": _set("provenance", "me"),
    "no provenance": _drop("provenance"),
    "a schema of the future": _set("provenance.schema", 99),
    "a schema of text": _set("provenance.schema", "one"),
    "a command of a number": _set("command", 3),
    "an unknown kind": _set("provenance.kind", "banana"),
    "another kind": lambda values: values["provenance"].update(
        kind="ranking" if values["provenance"].get("kind") != "ranking" else "mixture"
    ),
}


def _nonsense(value: Any) -> Callable[[Any], Any]:
    """Put a value where the first number of a summary stands."""

    def edit(values: Any) -> Any:
        place = _first_number(values)
        assert place is not None
        holder, key = place
        holder[key] = value
        return values

    return edit


def _first_number(values: Any) -> tuple[Any, Any] | None:
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in items:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return values, key
        if isinstance(value, dict | list):
            found = _first_number(value)
            if found is not None:
                return found
    return None


def _less(values: dict[str, Any]) -> dict[str, Any]:
    values.pop(next(iter(values)))
    return values


SUMMARIES: dict[str, Callable[[Any], Any]] = {
    "a summary of a list": lambda _values: [1, 2],
    "an empty summary": lambda _values: {},
    "a field less": _less,
    "text for a number": _nonsense("banana"),
    "a list for a number": _nonsense([1]),
}


def _column(name: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    """One value of a column, at its first row."""

    def edit(rows: pa.Table) -> pa.Table:
        values = rows[name].to_pylist()
        values[0] = value
        at = rows.schema.get_field_index(name)
        return rows.set_column(
            at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type)
        )

    return edit


TOKENS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "a target beyond the vocabulary": _column("target", 1 << 20),
    "a negative target": _column("target", -5),
    "a winner beyond the vocabulary": _column("top1", 1 << 20),
    "a negative document": _column("doc", -1),
    "a document that does not exist": _column("doc", 1 << 20),
    "a negative margin": _column("margin", -1.0),
    "a negative loss": _column("nll", -3.0),
    "a missing column": lambda rows: rows.drop_columns(["margin"]),
    "a column of text": lambda rows: rows.set_column(
        rows.schema.get_field_index("margin"), "margin", pa.array(["x"] * rows.num_rows)
    ),
    "no rows": lambda rows: rows.slice(0, 0),
    "half of the rows": lambda rows: rows.slice(0, rows.num_rows // 2),
}
HEADERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "no metadata": _drop("__metadata__"),
    "no signature in it": lambda values: values["__metadata__"].clear(),
    "metadata that is no JSON": lambda values: values["__metadata__"].update(
        dict.fromkeys(values["__metadata__"], "{")
    ),
    "a schema of the future": _own(_set("schema", 99)),
    "a field less": _own(lambda inner: inner.pop(next(iter(inner)))),
    "a list for a record": lambda values: values["__metadata__"].update(
        dict.fromkeys(values["__metadata__"], "[]")
    ),
    "a tensor that is not there": lambda values: values.update(
        more={"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
    ),
    "a tensor beyond the file": lambda values: next(
        value for name, value in values.items() if name != "__metadata__"
    ).update(data_offsets=[0, 1 << 42]),
}
INDEXES: dict[str, Callable[[dict[str, Any]], None]] = {
    "a schema of the future": _set("schema", 99),
    "a field less": lambda values: values.pop(next(iter(values))),
    "a list for a field": lambda values: values.update({next(iter(values)): [[]]}),
    "everything a number": lambda values: values.update(dict.fromkeys(values, 7)),
}


def _own_code(values: dict[str, Any], folder: Path) -> None:
    values["auto_map"] = {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.EvilConfig"}
    values["model_type"] = "evil"
    target = (folder.parent / "victim.parquet").as_posix()
    (folder / "evil.py").write_text(f"open({target!r}, 'w').write('run')\n")


CONFIGS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "code of its own": _own_code,
    "an unknown model type": lambda values, _folder: values.update(model_type="banana"),
    "an unknown quantisation": lambda values, _folder: values.update(
        quantization_config={"quant_method": "banana"}
    ),
    "an encoder and a decoder": lambda values, _folder: values.update(
        architectures=["BartForConditionalGeneration"], is_encoder_decoder=True, model_type="bart"
    ),
    "a masked model": lambda values, _folder: values.update(
        architectures=["BertForMaskedLM"], model_type="bert"
    ),
    "another width": lambda values, _folder: values.update(hidden_size=64),
    "more layers than weights": lambda values, _folder: values.update(num_hidden_layers=4),
    "a precision that is none": lambda values, _folder: values.update(dtype="banana"),
    "a list": lambda values, _folder: values.update(vocab_size=[480]),
    "weights less": lambda _values, folder: (folder / "model.safetensors").unlink(),
    "no tokenizer": lambda _values, folder: [path.unlink() for path in folder.glob("token*.json")],
}


if __name__ == "__main__":
    sys.exit(main())
