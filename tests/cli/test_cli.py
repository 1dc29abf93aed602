from __future__ import annotations

import contextlib
import copy
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from command_line import Ended, invoke
from made_up.adapters import save_adapter
from unembed import Audit, audit, cli, load
from unembed.decisions import AuditOptions
from unembed.models.checkpoint import load_tokenizer
from unembed.report import pages
from unembed.text.corpus import Corpus
from unembed.text.windows import Windows

PART = "32"


def process(*argv: str | Path) -> subprocess.Popen[str]:
    """The same in a process of its own, with this one's number of threads."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(
        [sys.executable, "-m", "unembed", *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A shell's background job, as this one may be, is born deaf to Ctrl-C, and so are its own.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )


def results(folder: Path) -> dict[str, bytes]:
    """Every file whose bytes depend on the numbers alone."""
    paths = [*folder.rglob("*.parquet"), folder / "summary.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}


def everything(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory, topics: list[str]) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "story.txt"
    file.write_text("\n\n".join(topics[:24]))
    return file


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory, topics: list[str]) -> Path:
    """Rows that each fit the context."""
    file = tmp_path_factory.mktemp("corpus") / "short.txt"
    file.write_text("\n".join(topic[:60] for topic in topics[:12]))
    return file


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, story: Path
) -> tuple[Path, Ended]:
    """A run in a process of its own that nothing disturbed, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "calm"
    with process("audit", llama_folder, story, "-o", out, "--part-positions", PART) as running:
        printed, said = running.communicate()
    return out, Ended(running.returncode, printed, said)


@pytest.fixture(scope="session")
def calm(undisturbed: tuple[Path, Ended]) -> Path:
    return undisturbed[0]


@pytest.fixture
def finished(calm: Path, tmp_path: Path) -> Path:
    """A copy of the calm run."""
    return Path(shutil.copytree(calm, tmp_path / "finished"))


def test_a_run_prints_its_verdict_and_a_short_table_and_says_nothing_else(
    undisturbed: tuple[Path, Ended], llama_folder: Path, story: Path
) -> None:
    out, ended = undisturbed
    assert (ended.code, ended.err) == (0, "")
    verdict, _, table = ended.out.partition("\n\n")
    assert [line[:4] for line in verdict.splitlines()[1:]] == ["  • "] * 3
    names = [line[:26].strip() for line in table.splitlines()]
    assert names[:3] == ["positions", "accuracy", "loss (nats)"]
    assert names[-2:] == ["run", "report"]
    audit = Audit.load(out)
    assert len(audit) == audit.table.num_rows
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["command"].startswith(f"unembed audit {llama_folder} {story} -o ")


def test_json_is_json_alone(
    run: Callable[..., Ended], calm: Path, llama_folder: Path, story: Path
) -> None:
    before = everything(calm)
    ended = run("audit", llama_folder, story, "-o", calm, "--part-positions", PART, "--json")
    assert ended.code == 0
    printed = json.loads(ended.out)
    assert printed["run"] == str(calm)
    assert printed["verdict"] == Audit.load(calm).verdict.to_json()
    assert printed["summary"] == json.loads((calm / "summary.json").read_text())
    assert ended.err == f"{calm} was finished before: verified, nothing computed again\n"
    assert everything(calm) == before


def test_a_report_is_drawn_again_to_the_same_bytes(
    run: Callable[..., Ended], finished: Path, tmp_path: Path
) -> None:
    ended = run("report", finished, "-o", tmp_path / "pages/page.html")
    assert ended == Ended(0, f"{tmp_path}/pages/page.html\n", "")
    page = (tmp_path / "pages/page.html").read_bytes()
    assert page == (finished / "report.html").read_bytes()


def test_a_report_of_what_is_no_audit(
    run: Callable[..., Ended], finished: Path, tmp_path: Path
) -> None:
    assert "holds no run" in run("report", tmp_path / "missing").line
    assert "pages is a folder: give a file" in run("report", finished, "-o", tmp_path).line.replace(
        str(tmp_path), "pages"
    )
    part = next((finished / "tokens").iterdir())
    part.write_bytes(b"x" + part.read_bytes()[1:])
    assert f"{part} is damaged" in run("report", finished).line


BAD_OPTIONS = [
    (["--dtype", "int3"], "Invalid value for '--dtype': 'int3' is not one of 'auto', 'float32'"),
    (["--device", "rubbish"], "--device rubbish cannot be used"),
    (["--top-k", "-1"], "top_k must not be negative, got -1"),
    (["--context", "1"], "--context 1 predicts nothing: give at least 2"),
    (["--context", "0"], "context must be at least 1, got 0"),
    (["--context", "65"], "--context 65 is more than the 64 tokens"),
    (["--max-positions", "0"], "max_positions must be at least 1, got 0"),
    (["--batch-tokens", "0"], "batch_tokens must be at least 1, got 0"),
    (["--part-positions", "0"], "part_positions must be at least 1, got 0"),
    (["--max-nonfinite", "-1"], "max_nonfinite must not be negative, got -1"),
    (["--native-head"], "is in float32, so its native head is the exact one: add --dtype bfloat16"),
    (["--repeat-batching", "-1"], "repeat_batching must not be negative, got -1"),
    (["--repeat-batching", "2", "--top-k", "1"], "--top-k 1 keeps too few: give at least 2"),
    (["--logprobs", "nothing.jsonl"], "--logprobs nothing.jsonl: no such file"),
    (["--document", "("], "--document '(' is not a regular expression"),
]


@pytest.mark.parametrize(("options", "said"), BAD_OPTIONS)
def test_options_that_cannot_be_used(
    options: list[str],
    said: str,
    run: Callable[..., Ended],
    llama_folder: Path,
    short: Path,
    tmp_path: Path,
) -> None:
    ended = run("audit", llama_folder, short, "-o", tmp_path / "run", *options)
    assert said in ended.line
    assert not (tmp_path / "run").exists()


def test_log_probabilities_of_another_text_are_refused_before_the_model_is_loaded(
    run: Callable[..., Ended],
    llama_folder: Path,
    short: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "server.jsonl"
    file.write_text('{"token_ids": [7, 5], "logprobs": [null, -1.5]}\n')
    monkeypatch.setattr("unembed.cli.options.opened", None)
    ended = run("audit", llama_folder, short, "-o", tmp_path / "run", "--logprobs", file)
    assert "server.jsonl, line 1: token 0 is token id 7" in ended.line
    assert "in row 1 of the text token id" in ended.line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(
    run: Callable[..., Ended], llama_folder: Path, short: Path, tmp_path: Path
) -> None:
    ended = run("audit", llama_folder, short, "-o", tmp_path / "run", "--device", "cuda")
    assert "--device cuda cannot be used (" in ended.line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["audit", "m", "c", "-o", "r", "--no-such"], "No such option '--no-such'"),
        (["audit", "m", "c"], "Missing option '-o' / '--out'"),
        (["audit", "m", "c", "-o", "r", "--top-k", "x"], "'x' is not a valid integer"),
        (["audit", "m", "c", "-o", "r", "--overflow", "x"], "'windows', 'truncate'"),
        (["no-such-verb"], "No such command 'no-such-verb'"),
    ],
)
def test_usage_errors(argv: list[str], said: str, run: Callable[..., Ended]) -> None:
    line = run(*argv).line
    assert said in line
    assert line.endswith("--help")


BAD_CORPORA = [
    ("t.txt", b"", "t.txt holds no text (0 blank rows)"),
    ("t.txt", b"\n  \n\n", "t.txt holds no text (3 blank rows)"),
    ("t.txt", b"a\nb\n", "all 2 rows that are not blank are shorter than two tokens"),
    ("t.txt", b"fine\ncaf\xe9\n", "t.txt, line 2: byte 4 is not UTF-8 (0xe9)"),
    ("t.jsonl", b'{"text": "fine"}\n{"text": \n', "t.jsonl, line 2 is not JSON"),
    ("t.jsonl", b'{"body": "fine"}\n', "no column 'text'; it has body"),
    ("t.jsonl", b'{"text": 12}\n', "column 'text' holds 12, not text"),
    ("t.parquet", b"none", "t.parquet cannot be read as Parquet"),
    ("t.csv", b"a,b\n", "t.csv has no column 'text'; it has a, b"),
    ("t.md", b"a,b\n", "t.md: cannot read a .md file; give one of .txt, .jsonl"),
]


@pytest.mark.parametrize(("name", "data", "said"), BAD_CORPORA)
def test_corpora_that_cannot_be_used(
    name: str,
    data: bytes,
    said: str,
    run: Callable[..., Ended],
    llama_folder: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / name).write_bytes(data)
    assert said in run("audit", llama_folder, tmp_path / name, "-o", tmp_path / "run").line
    assert not (tmp_path / "run").exists()


def test_what_is_not_there(
    run: Callable[..., Ended], llama_folder: Path, short: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    assert run("audit", missing, short, "-o", tmp_path / "run").line == (
        f"{missing}: no such model folder"
    )
    ended = run("audit", llama_folder, f"{missing}.txt", "-o", tmp_path / "run")
    assert ended.line == f"{missing}.txt: no such file or folder"
    assert not list(tmp_path.iterdir())


def test_models_that_cannot_be_used(
    run: Callable[..., Ended],
    checkpoint: Callable[..., Path],
    llama: Any,
    llama_folder: Path,
    short: Path,
    tmp_path: Path,
) -> None:
    import transformers as tr

    size = {"vocab_size": 480, "hidden_size": 48, "num_attention_heads": 4}
    encoder = checkpoint(tr.BertForMaskedLM(tr.BertConfig(**size, num_hidden_layers=1)))
    broken = Path(shutil.copytree(llama_folder, tmp_path / "broken"))
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    out = tmp_path / "run"
    for model, said in [
        (encoder, "is a BertForMaskedLM, which is not causal"),
        (checkpoint(llama.model), "no trained weights for 1 parameters"),
        (broken, "its weights are damaged or incomplete"),
        (checkpoint(llama, tokenizer=None), "tokenizer"),
    ]:
        assert said in run("audit", model, short, "-o", out).line
    assert not out.exists()


def test_a_tokenizer_of_another_model(
    run: Callable[..., Ended],
    checkpoint: Callable[..., Path],
    short: Path,
    tmp_path: Path,
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    smaller = LlamaConfig(vocab_size=300, num_attention_heads=2, **size)
    ended = run("audit", checkpoint(LlamaForCausalLM(smaller)), short, "-o", tmp_path / "run")
    assert "a vocabulary of 300: the tokenizer does not belong to this model" in ended.line
    assert not (tmp_path / "run").exists()


def test_folders_that_hold_something_else(
    run: Callable[..., Ended], finished: Path, llama_folder: Path, short: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    assert "file is a file: give a folder" in run("audit", "m", short, "-o", tmp_path / "file").line
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.tex").write_text("x")
    ended = run("audit", "m", short, "-o", tmp_path / "thesis")
    assert "files that are no run of unembed (thesis.tex)" in ended.line
    before = everything(finished)
    line = run("audit", llama_folder, short, "-o", finished).line
    assert "holds another run: its text.corpus is " in line
    assert "story.txt" in line
    assert "short.txt" in line
    assert everything(finished) == before


def test_a_damaged_part_is_named_when_the_command_is_repeated(
    run: Callable[..., Ended], finished: Path, llama_folder: Path, story: Path
) -> None:
    part = finished / "tokens/part-00001.parquet"
    data = part.read_bytes()
    part.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    ended = run("audit", llama_folder, story, "-o", finished, "--part-positions", PART)
    assert f"{part} is damaged" in ended.line


def test_positions_that_are_not_finite(
    run: Callable[..., Ended],
    llama: Any,
    tokenizer: Any,
    checkpoint: Callable[..., Path],
    short: Path,
    tmp_path: Path,
) -> None:
    from transformers import LlamaForCausalLM

    corpus = Corpus.read(short, tokenizer)
    spans = zip(corpus.starts, corpus.starts[1:], strict=False)
    rows = [corpus.ids[start:end].tolist() for start, end in spans]
    assert Windows.of(corpus, 64).length.max() < 64

    model = LlamaForCausalLM(llama.config).eval()
    model.load_state_dict(llama.state_dict())
    with torch.no_grad():
        model.model.embed_tokens.weight[rows[3][2]] = torch.nan
        logits = [model(torch.tensor([row[:-1]])).logits[0] for row in rows]
    bad = [
        (doc, pos)
        for doc, here in enumerate(logits)
        for pos, row in enumerate(here)
        if not row.isfinite().all()
    ]
    assert 6 < len(bad) < corpus.tokens / 2

    out = tmp_path / "run"
    command = ("audit", checkpoint(model), short, "-o", out, "--part-positions", PART)
    line = run(*command).line
    doc, pos = bad[0]
    assert f"document '{corpus.names[doc]}' (doc {doc}) position {pos}, after 0 such" in line
    assert "--max-nonfinite 0 allows no more" in line
    doc, pos = bad[-1]
    line = run(*command, "--max-nonfinite", str(len(bad) - 1)).line
    assert f"(doc {doc}) position {pos}, after {len(bad) - 1} such before it" in line

    ended = run(*command, "--max-nonfinite", str(len(bad)))
    assert ended.code == 0
    assert f"{len(bad)} positions left out" in ended.out
    table = Audit.load(out).table
    nulls = table.filter(pa.compute.is_null(table["margin"]))
    assert sorted(zip(*(nulls[n].to_pylist() for n in ("doc", "pos")), strict=True)) == bad
    assert json.loads((out / "summary.json").read_text())["n_nonfinite"] == len(bad)
    assert "allows no more" in run(*command).line


def test_weights_that_are_not_finite(
    run: Callable[..., Ended],
    llama: Any,
    checkpoint: Callable[..., Path],
    short: Path,
    tmp_path: Path,
) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(llama.config)
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    ended = run("audit", checkpoint(model), short, "-o", tmp_path / "run")
    assert "not finite at document 'short.txt:1' (doc 0) position 0" in ended.line
    assert not list(tmp_path.rglob("part-*"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small disk of its own; called with a size, it has that size from then on."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def resize(size: str) -> Path:
        nonlocal mounted
        how = f"remount,size={size}" if mounted else f"size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", place], check=False)
        if done.returncode != 0:
            pytest.skip("no right to mount a disk here")
        mounted = True
        return place

    yield resize
    if mounted:
        subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="needs root")
def test_a_full_disk_keeps_what_was_finished(
    run: Callable[..., Ended],
    disk: Callable[[str], Path],
    calm: Path,
    llama_folder: Path,
    story: Path,
) -> None:
    out = disk("128k") / "run"
    command = ("audit", llama_folder, story, "-o", out, "--part-positions", PART)
    line = run(*command).line
    assert "cannot be written: No space left on device; make room" in line
    assert "repeat the same command: finished parts are kept" in line
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("tokens/*.parquet")}
    assert 3 < len(kept) < len(list(calm.glob("tokens/*")))
    assert not list(out.rglob("*.part"))
    disk("64m")
    goes_on(out, llama_folder, story)
    assert results(out) == results(calm)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("tokens/*.parquet")}
    assert kept.items() <= after.items()


def test_output_that_cannot_be_printed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.suppress(OSError), Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert invoke("report", "--help") == 2
    assert capfd.readouterr().err == (
        "unembed: the output cannot be printed: No space left on device; make room or print "
        "elsewhere\n"
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "unembed: memory ran out: make room"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "unembed: memory ran out"),
        (torch.OutOfMemoryError("CUDA out of memory"), "unembed: memory ran out"),
        (RuntimeError("can't start new thread"), "unembed: memory ran out"),
    ],
)
def test_memory_that_runs_out_is_told_in_a_line(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    line: str,
) -> None:
    def refuse(*_args: object) -> None:
        raise error

    monkeypatch.setattr(pages, "find_runs", refuse)
    assert invoke("report", ".") == 2
    said = capfd.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == 1


def goes_on(out: Path, model: Path, text: Path) -> None:
    """Resume what the command line began, as a program does, in this process."""
    checkpoint = load(model)
    corpus = Corpus.read(text, checkpoint.tokenizer)
    options = AuditOptions(part_positions=int(PART), slices=12)
    audit(checkpoint.model, corpus, options, out=out, name=checkpoint.name)


def wait_for(path: Path, running: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert running.poll() is None, running.communicate()
        time.sleep(0.005)


def test_one_process_at_a_time_and_ctrl_c(
    run: Callable[..., Ended], calm: Path, llama_folder: Path, story: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ("audit", llama_folder, story, "-o", out, "--part-positions", PART)
    with process(*command) as other:
        wait_for(out / "tokens", other)
        other.send_signal(signal.SIGSTOP)
        assert f"is being written by another process (pid {other.pid})" in run(*command).line
        other.send_signal(signal.SIGCONT)
        other.send_signal(signal.SIGINT)
        printed, said = other.communicate()
    assert other.returncode == 130
    assert (printed, said) == ("", "unembed: stopped; the same command goes on from here\n")
    assert not (out / "manifest.json").exists()
    goes_on(out, llama_folder, story)
    assert results(out) == results(calm)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_run_goes_on_to_the_same_bytes(
    seed: int,
    calm: Path,
    llama_folder: Path,
    story: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    command = ("audit", llama_folder, story, "-o", out, "--part-positions", PART, "--quiet")
    with process(*command) as other:
        wait_for(out / "journal.jsonl", other)
        time.sleep(random.Random(seed).uniform(0, 0.3))
        other.kill()
    goes_on(out, llama_folder, story)
    assert results(out) == results(calm)
    assert not list(out.rglob("*.part"))
    assert not (out / "journal.jsonl").exists()


def test_quantize_makes_the_second_model(
    run: Callable[..., Ended], llama_folder: Path, story: Path, tmp_path: Path
) -> None:
    where = ("-o", tmp_path / "run")
    assert "MODEL CORPUS" in run("compare", "a", "--quantize", "int8", *where).line
    assert (
        "'int5' is not one of"
        in run("compare", llama_folder, story, "--quantize", "int5", *where).line
    )
    assert "needs --quantize" in run("compare", "a", "b", story, "--quantize-head", *where).line
    assert (
        "--quantize-head needs a CORPUS" in run("compare", "a", "b", "--quantize-head", *where).line
    )
    assert not (tmp_path / "run").exists()
    pytest.importorskip("torchao", reason="the extra quant is not installed")
    done = run("compare", llama_folder, story, "--quantize", "int4", *where, "--json")
    summary = json.loads(done.out)["summary"]
    assert summary["divergence"]["kl_forward"]["mean"]["value"] > 0
    after = Audit.load(tmp_path / "run" / "after").provenance
    assert after.model.startswith(f"{llama_folder} in int4 (torchao ")


def test_several_variants_make_a_ladder(
    run: Callable[..., Ended], llama_folder: Path, story: Path, tmp_path: Path
) -> None:
    broken, out = tmp_path / "broken", tmp_path / "run"
    shutil.copytree(llama_folder, broken)
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[:-50])
    shutil.copytree(llama_folder, tmp_path / "copy")
    given = ("compare", llama_folder, tmp_path / "copy", broken, story, "--quantize", "bf16")
    line = run(*given[:4], "--quantize", "bf16", "-o", out).line
    assert f"{broken} is a model, where CORPUS is wanted" in line
    assert "are called" in run(*given, "--corpus", story, "-o", out).line
    assert not out.exists()
    ended = run(*given, "-o", out, "--json")
    assert ended.code == 2
    assert "broken was not measured" in ended.err
    summary = json.loads(ended.out)["summary"]
    assert [one["name"] for one in summary["variants"]] == ["copy", "bf16"]
    assert [one["name"] for one in summary["refused"]] == ["broken"]
    exact = next(row for row in summary["rows"] if row["name"] == "copy")
    assert exact["kl_largest"] == 0
    assert "bf16" in (out / "report.html").read_text()
    assert (out / "copy" / "report.html").exists()
    other = ("compare", llama_folder, f"other={tmp_path / 'copy'}", story, "--quantize", "bf16")
    ended = run(*other, "-o", out, "--quiet")
    assert ended.err == (
        f"{out} keeps copy of the ladder before, and this table does not: give every variant that "
        "it shall have\n"
    )


def test_as_a_module_and_as_a_script(tmp_path: Path) -> None:
    missing = tmp_path / "missing.txt"
    with process("audit", "m", missing, "-o", tmp_path / "run") as module:
        assert module.communicate() == ("", f"unembed: {missing}: no such file or folder\n")
        assert module.returncode == 2
    script = Path(sys.executable).with_name("unembed")
    if script.exists():
        asked = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
        assert asked.stdout.startswith("unembed, version ")


def test_help_has_examples_and_loads_no_library(tmp_path: Path) -> None:
    program = (
        "import sys, unembed, unembed.cli\n"
        "sys.argv = ['unembed', *sys.argv[1:]]\n"
        "try: unembed.cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'numpy', 'datasets'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    for verb in ([], ["audit"], ["compare"], ["refine"], ["demo"], ["report"]):
        argv = [sys.executable, "-c", program, *verb, "--help"]
        asked = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (asked.returncode, asked.stderr) == (0, "")
        assert "Example:" in asked.stdout


def test_a_defect_keeps_its_traceback(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "as nobody foresaw")

    monkeypatch.setattr(pq, "ParquetFile", fail)
    monkeypatch.setattr(sys, "argv", ["unembed", "report", str(finished)])
    with pytest.raises(OSError, match="as nobody foresaw"):
        cli.main()
    assert capfd.readouterr().err == ""


@pytest.fixture(scope="session")
def rounded(
    tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, story: Path
) -> tuple[Path, Path]:
    """Audits of a model and of its bfloat16 version."""
    runs = tmp_path_factory.mktemp("rounded")
    for kind in ("float32", "bfloat16"):
        where = str(runs / kind)
        assert invoke("audit", llama_folder, story, "-o", where, "--dtype", kind, "--quiet") == 0
    return runs / "float32", runs / "bfloat16"


def test_compare_says_what_changed(
    run: Callable[..., Ended], rounded: tuple[Path, Path], tmp_path: Path
) -> None:
    done = run("compare", *rounded, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    assert "changed top token (churn)" in done.out
    assert "the model's dtype differs: float32 before, bfloat16 after" in done.out
    page = (tmp_path / "run" / "report.html").read_bytes()
    again = run("report", tmp_path / "run", "-o", tmp_path / "again.html")
    assert again.code == 0, again.err
    assert (tmp_path / "again.html").read_bytes() == page
    as_json = run("compare", *rounded, "-o", tmp_path / "run", "--json")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert json.loads(as_json.out)["summary"] == summary


def test_compare_keeps_what_is_asked_for(
    run: Callable[..., Ended], rounded: tuple[Path, Path], tmp_path: Path, llama_folder: Path
) -> None:
    terms = tmp_path / "terms.txt"
    terms.write_text("with\n\nassert\n")
    asked = ["--terms", terms, "--tokenizer", llama_folder, "--class", "function"]
    done = run("compare", *rounded, "-o", tmp_path / "run", "--json", *asked)
    assert done.code == 0, done.err
    summary = json.loads(done.out)["summary"]
    assert summary["only"] == "classes function; terms 'with', 'assert'"
    assert 0 < summary["n_positions"] < 500


def test_compare_with_a_corpus_runs_both_models(
    run: Callable[..., Ended], llama_folder: Path, story: Path, tmp_path: Path
) -> None:
    models = (llama_folder, llama_folder, story, "--dtype-after", "bfloat16", "--context", "32")
    done = run("compare", *models, "-o", tmp_path / "run", "--max-positions", "300", "--quiet")
    assert done.code == 0, done.err
    assert "KL(before‖after) (nats)" in done.out
    assert run("report", tmp_path / "run" / "before").code == 0
    again = run("compare", *models, "-o", tmp_path / "run", "--max-positions", "300", "--quiet")
    assert again.out == done.out


def test_compare_judges_a_draft(
    run: Callable[..., Ended], llama_folder: Path, story: Path, tmp_path: Path
) -> None:
    models = (llama_folder, llama_folder, story, "--context", "32", "--max-positions", "300")
    given = ("--draft", "--sampling", "T=0.7,top-k=40,top-p=0.9", "--draft-cost", "0.5")
    command = ("compare", *models, *given, "--draft-tokens", "3", "-o", tmp_path / "run", "--quiet")
    done = run(*command, "--json")
    assert done.code == 0, done.err
    drafts = json.loads(done.out)["summary"]["drafts"]
    assert [one["acceptance"]["value"] for one in drafts["samplings"]] == [1, 1, 1]
    assert [len(one["lengths"]) for one in drafts["samplings"]] == [3, 3, 3]
    assert drafts["samplings"][1]["sampling"] == {"temperature": 0.7, "top_k": 40, "top_p": 0.9}
    printed = run(*command)
    assert "accepted, T = 0.7, top-k 40, top-p 0.9" in printed.out
    assert "speed-up, greedy" in printed.out
    assert "0.500 of one of the target’s, as given" in printed.out


def test_compare_mines_what_a_change_taught(
    run: Callable[..., Ended], llama_folder: Path, story: Path, tmp_path: Path
) -> None:
    models = (llama_folder, llama_folder, story, "--dtype-after", "bfloat16", "--context", "32")
    command = ("compare", *models, "--max-positions", "300", "--mine", "-o", tmp_path / "run")
    done = run(*command, "--quiet", "--json")
    assert done.code == 0, done.err
    mined = json.loads(done.out)["summary"]["mined"]
    assert 0 < mined["moved"]["value"] < 0.05
    assert mined["n_rose"] == mined["n_fell"] == 0
    assert (tmp_path / "run" / "mined" / "manifest.json").is_file()
    assert "tokens taught" in run(*command, "--quiet").out
    assert run("report", tmp_path / "run", "-o", tmp_path / "page.html").code == 0
    assert "What did this change teach?" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["corpus.txt", "--mine", "--class", "numeric"], "--mine is about the whole text"),
        (["another", "corpus.txt", "--mine"], "--mine looks at one change"),
        (["--mine"], "--mine needs a CORPUS"),
    ],
)
def test_what_cannot_be_mined_is_refused_before_a_model_is_loaded(
    run: Callable[..., Ended], tmp_path: Path, given: list[str], message: str
) -> None:
    done = run("compare", "no-model", "no-other", *given, "-o", tmp_path / "run")
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--draft", "--sampling", "T=0"], "temperature 0 is no number above 0"),
        (["--draft", "--sampling", "top-p=1.1"], "top-p 1.1 is outside (0, 1]"),
        (["--draft", "--sampling", "warm"], "'warm' is no sampling"),
        (["--draft", "--draft-cost", "0"], "--draft-cost 0 is no cost above 0"),
        (["--draft", "--draft-tokens", "0"], "--draft-tokens 0 drafts nothing"),
        (["--draft", "--class", "numeric"], "--draft is about whole stretches of the text"),
        (["--draft-cost", "0.1"], "need --draft"),
        (["--sampling", "T=0.5"], "need --draft"),
    ],
)
def test_what_is_no_draft_is_refused_before_a_model_is_loaded(
    run: Callable[..., Ended], tmp_path: Path, given: list[str], message: str
) -> None:
    where = ("-o", tmp_path / "run")
    assert message in run("compare", "no-target", "no-draft", "no-text", *given, *where).line
    if "need" not in message:
        said = run("compare", "no-run", "no-other", "--draft", *where).line
        assert "--draft needs a CORPUS" in said


def test_compare_takes_the_limit_that_its_message_advises(
    run: Callable[..., Ended],
    llama: Any,
    llama_folder: Path,
    checkpoint: Callable[..., Path],
    short: Path,
    tmp_path: Path,
) -> None:
    model = copy.deepcopy(llama)
    with torch.no_grad():
        model.model.embed_tokens.weight[load_tokenizer(llama_folder).encode("if")[0]] = torch.nan
    command = ("compare", llama_folder, checkpoint(model), short, "-o", tmp_path / "run", "--quiet")
    assert "--max-nonfinite 0 allows no more" in run(*command).line
    done = run(*command, "--max-nonfinite", "100000")
    assert done.code == 0, done.err
    assert "positions left out" in done.out
    assert (
        "--max-nonfinite needs a CORPUS"
        in run("compare", "a", "b", "-o", tmp_path / "b", "--max-nonfinite", "3").line
    )


def test_compare_reads_the_whole_text_by_both_tokenizers(
    run: Callable[..., Ended],
    llama: Any,
    tokenizer: Any,
    llama_folder: Path,
    checkpoint: Callable[..., Path],
    short: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tokenizers import Regex
    from tokenizers.normalizers import Replace

    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.normalizer = Replace(Regex("qqq"), "r")
    (tmp_path / "odd.txt").write_text(short.read_text() + "one qqq among many\n")
    folder = checkpoint(llama, other)
    where = ("-o", tmp_path / "run", "--quiet")
    with monkeypatch.context() as patched:
        patched.setattr("unembed.cli.compare.opened", lambda *_a, **_k: pytest.fail("loaded"))
        said = run("compare", llama_folder, folder, tmp_path / "odd.txt", *where).line
    assert "of the text differently" in said
    assert run("compare", llama_folder, folder, short, *where).code == 0


def test_an_adapter_is_a_model_as_any_other(
    run: Callable[..., Ended], llama: Any, llama_folder: Path, short: Path, tmp_path: Path
) -> None:
    adapter = save_adapter(llama, tmp_path / "tuned")
    on = ("--base", llama_folder, "--quiet")
    assert run("audit", adapter, short, *on, "-o", tmp_path / "audit").code == 0
    assert Audit.load(tmp_path / "audit").provenance.model == f"{llama_folder} with tuned"
    done = run("compare", llama_folder, adapter, short, *on, "-o", tmp_path / "both")
    assert done.code == 0, done.err
    assert Audit.load(tmp_path / "both" / "after").table.equals(
        Audit.load(tmp_path / "audit").table
    )
    made = run("sketch", adapter, short, *on, "-o", tmp_path / "tuned.safetensors", "--size", "64")
    assert made.code == 0, made.err
    for verb in ("audit", "refine", "sketch"):
        line = run(verb, adapter, short, "-o", tmp_path / "none.safetensors").line
        assert "which is no folder here: give --base, the model that it was trained on" in line
    where = ("-o", tmp_path / "none")
    assert "give --base" in run("compare", llama_folder, adapter, short, *where).line
    assert "leave --base out" in run("compare", llama_folder, llama_folder, short, *on, *where).line
    assert "--base needs a CORPUS" in run("compare", "a", "b", "--base", "c", *where).line


def test_what_compare_refuses(
    run: Callable[..., Ended],
    rounded: tuple[Path, Path],
    llama_folder: Path,
    short: Path,
    tmp_path: Path,
) -> None:
    other = tmp_path / "other"
    assert invoke("audit", llama_folder, short, "-o", str(other), "--quiet") == 0
    out = ("-o", tmp_path / "run")
    before, after = rounded
    assert "the texts differ (digest" in run("compare", before, other, *out).line
    assert "holds no run" in run("compare", before, tmp_path / "missing", *out).line
    message = run("compare", before, after, *out, "--class", "verb").line
    assert message.startswith("Invalid value for '--class': 'verb' is not one of 'structural'")
    assert "'(' is no regular" in run("compare", before, after, *out, "--documents", "(").line
    message = run("compare", before, after, *out, "--documents", "nowhere").line
    assert "no position is left with documents matching 'nowhere'" in message
    message = run("compare", before, after, *out, "--max-positions", "9").line
    assert message.startswith("--max-positions needs a CORPUS")
    assert "no such" in run("compare", "/no/model", llama_folder, short, *out).line
    assert not (tmp_path / "run").exists()
