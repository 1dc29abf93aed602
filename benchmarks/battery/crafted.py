"""Craft artefacts whose checksums fit and whose contents cannot be, and see that each is refused.

    python benchmarks/battery/crafted.py

Unlike corruption, which checksums catch, a crafted file was made by someone: paths that lead out of
the run, counts that are not those of the rows, targets beyond the vocabulary, fields that are
missing or of another kind, numbers that no run gives, headers of absurd sizes, a checkpoint that
wants its own code run or a model of a million layers. Each must be refused in one line with exit
status 2, within a second, and touch nothing outside. The second is measured on the wall clock from
the fork of a process that has imported torch and transformers to its end, with all that a verb
imports besides; one that takes longer is read twice more, for the machine may have been busy, and
the fastest counts. Prints counts, the median and the slowest; exits 1 on anything else.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
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
SLOWEST_S = 1.0
TRIES = 3
"""Readings at most of a file whose refusal took longer."""


def main() -> int:
    """Make, craft, read."""
    warm()
    place = scratch("crafted")
    counts, bad, seconds = crafted(made(place / "made"), place)
    print(table(counts, "artefact"))
    print(f"\n| artefact | median s | slowest s |\n{'|---' * 3}|")
    everything = [one for each in seconds.values() for one in each]
    for kind, taken in {**seconds, "all": everything}.items():
        print(f"| {kind} | {statistics.median(taken):.2f} | {max(taken):.2f} |")
    for line in bad:
        print(line, file=sys.stderr)
    shutil.rmtree(place)
    return 1 if bad else 0


def crafted(
    ready: Made, place: Path, every: int = 1, slowest_s: float = SLOWEST_S
) -> tuple[dict[str, dict[str, int]], list[str], dict[str, list[float]]]:
    """Outcomes by kind of artefact, a line for each that must not be, and the seconds of each
    refusal; one case in ``every``.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    bad: list[str] = []
    seconds: dict[str, list[float]] = defaultdict(list)
    for kind, name, change, read, source in list(cases(ready))[::every]:
        found = [_read(place, change, read, source)]
        while found[-1][1] > slowest_s and len(found) < TRIES:
            found.append(_read(place, change, read, source))
        wrong = (one for one in found if one[0] != "refused")
        outcome, took, said = next(wrong, min(found, key=lambda one: one[1]))
        if outcome == "refused" and took > slowest_s:
            outcome = "slow"
        counts[kind][outcome] += 1
        seconds[kind].append(took)
        if outcome != "refused":
            bad.append(f"{kind}: {name}: {outcome} in {took:.1f} s: {said}")
    return {kind: dict(row) for kind, row in counts.items()}, bad, dict(seconds)


def _read(place: Path, change: Change, read: list[str], source: Path) -> tuple[str, float, str]:
    """How reading a crafted copy ended, in how many seconds, and the end of what it said."""
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
    if not victim.exists() or victim.read_bytes() != b"someone's":
        outcome = "TOUCHED"
    return outcome, ended.seconds, ended.err[-400:]


def cases(ready: Made) -> Iterator[tuple[str, str, Change, list[str], Path]]:
    """Kind, name, what is changed in a copy, the command that reads it, and what is copied."""
    runs = ("audit", "comparison", "alignment", "ranking", "mixture", "refinement", "grid")
    for kind in runs:
        one = ready.artefacts[kind]
        for name, change in MANIFESTS.items():
            yield kind, name, _manifest(change), list(one.read), one.path
        for name, edit in SUMMARIES.items():
            yield kind, name, _summary(edit), list(one.read), one.path
        for name, data in TEXTS.items():
            yield kind, f"a summary of {name}", _summary_text(data), list(one.read), one.path
            yield (
                kind,
                f"a manifest of {name}",
                _text("manifest.json", data),
                list(one.read),
                one.path,
            )
    audit = ready.artefacts["audit"]
    for name, rows in TOKENS.items():
        yield "audit", name, _tokens(rows), list(audit.read), audit.path
    signature = _signature_of(ready)
    for name, header in HEADERS.items():
        yield "signature", name, _header(header), list(signature.read), signature.path
    index = ready.artefacts["index"]
    for name, head in INDEXES.items():
        yield "index", name, _index(head), list(index.read), index.path
    for name, data in TEXTS.items():
        yield "index", name, _text("index.json", data), list(index.read), index.path
        yield "signature", name, _header_text(data), list(signature.read), signature.path
    corpus = str(ready.texts[0])
    audit_it = ["audit", "OUT", corpus, "-o", "OUT.run", "--context", "32", "--quiet"]
    for name, config in CONFIGS.items():
        yield "checkpoint", name, _config(config), audit_it, ready.model
    for name, data in TEXTS.items():
        for file in ("config.json", "tokenizer.json"):
            yield "checkpoint", f"{file} of {name}", _text(file, data), audit_it, ready.model
        weights = _inside("model.safetensors", _header_text(data))
        yield "checkpoint", f"weights whose header is {name}", weights, audit_it, ready.model


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


def _text(name: str, data: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(data) and None


def _inside(name: str, change: Change) -> Change:
    return lambda folder: change(folder / name)


def _summary_text(data: bytes) -> Change:
    def apply(run: Path) -> None:
        (run / "summary.json").write_bytes(data)
        _relisted(run, run / "summary.json")

    return apply


def _header_text(data: bytes) -> Change:
    def apply(file: Path) -> None:
        file.write_bytes(len(data).to_bytes(8, "little") + data)

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


TEXTS: dict[str, bytes] = {
    "a hundred thousand brackets": b"[" * 100_000,
    "ninety million blanks": b" " * 90_000_000,
    "a number of a million digits": b"9" * 1_000_000,
    "bytes that are no Unicode": b"\xff\xfe\x00{",
    "nothing": b"",
}


def _many_rows(rows: pa.Table) -> pa.Table:
    """Twelve million rows, which take little of a file where they are all the same."""
    return rows.take(pa.repeat(0, 12_000_000))


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
    "millions of rows": _many_rows,
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
    "a million layers": lambda values, _folder: values.update(num_hidden_layers=1_000_000),
    "a width of a million": lambda values, _folder: values.update(hidden_size=1_000_000),
    "a vocabulary of a billion": lambda values, _folder: values.update(vocab_size=10**9),
    "a vast inner width": lambda values, _folder: values.update(intermediate_size=10**8),
    "a negative width": lambda values, _folder: values.update(hidden_size=-32),
    "no heads": lambda values, _folder: values.update(num_attention_heads=0),
    "a precision that is none": lambda values, _folder: values.update(dtype="banana"),
    "a list": lambda values, _folder: values.update(vocab_size=[480]),
    "weights less": lambda _values, folder: (folder / "model.safetensors").unlink(),
    "no tokenizer": lambda _values, folder: [path.unlink() for path in folder.glob("token*.json")],
}


if __name__ == "__main__":
    sys.exit(main())
