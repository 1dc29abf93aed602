"""What an output may replace, what is refused before the work, and what a terminal is shown."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import QUICK, Ended, invoke, sketch_all, write_texts
from unembed import audit, load
from unembed.models import checkpoint
from unembed.report.parts import drawing
from unembed.runs.files import write_whole
from unembed.text.corpus import Corpus

Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, topics: list[str]) -> list[Path]:
    return write_texts(tmp_path_factory.mktemp("texts"), topics[:24], ["one", "two", "three"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, texts: list[Path]) -> Path:
    """A folder with an audit, signatures and an index."""
    place = tmp_path_factory.mktemp("made")
    base = load(str(llama_folder))
    audit(base.model, Corpus.read(texts[0], base.tokenizer), out=place / "run")
    signatures = sketch_all(llama_folder, texts, place)
    assert invoke("index", "add", place / "index", *signatures) == 0
    return place


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is loaded is work that was begun."""

    def begun(*_args: object, **_named: object) -> None:
        raise AssertionError("the work was begun")

    monkeypatch.setattr(checkpoint, "load", begun)


def commands(made: Path, model: Path, text: Path) -> dict[str, tuple[object, ...]]:
    """Each command that writes a file where it is told to; the file comes last."""
    return {
        "report": ("report", made / "run", "-o"),
        "map": ("index", "map", made / "index", "-o"),
        "sketch": ("sketch", model, text, *QUICK, "-o"),
        "export": ("sketch", model, text, *QUICK, "-o", made / "new.safetensors", "--export"),
    }


def someones_text(path: Path) -> None:
    path.write_text("a thesis")


def someones_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html>\n<title>mine</title>")


def someones_model(path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


def a_link(path: Path) -> None:
    victim = path.with_name("victim")
    victim.write_text("a thesis")
    path.symlink_to(victim)


def a_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("there", "said"),
    [
        (someones_text, "holds what unembed did not make"),
        (someones_page, "holds what unembed did not make"),
        (someones_model, "holds what unembed did not make"),
        (a_link, "is a link, which would be replaced"),
        (a_dangling_link, "is a link, which would be replaced"),
        (a_pipe, "is a pipe, which would be replaced"),
    ],
)
@pytest.mark.parametrize("name", ["report", "map", "sketch", "export"])
def test_an_output_never_replaces_what_is_not_ours(
    name: str,
    there: Callable[[Path], None],
    said: str,
    run: Run,
    made: Path,
    llama_folder: Path,
    texts: list[Path],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.safetensors"
    there(out)
    kind, before = out.lstat().st_mode, sorted(tmp_path.iterdir())
    assert said in run(*commands(made, llama_folder, texts[0])[name], out).line
    assert (out.lstat().st_mode, sorted(tmp_path.iterdir())) == (kind, before)
    assert not (tmp_path / "victim").exists() or (tmp_path / "victim").read_text() == "a thesis"


@pytest.mark.parametrize("name", ["report", "map"])
def test_a_page_of_ours_is_replaced_and_a_neighbour_is_kept(
    name: str, run: Run, made: Path, llama_folder: Path, texts: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    (tmp_path / "page.html.part").write_text("a thesis")
    for _ in range(2):
        assert run(*commands(made, llama_folder, texts[0])[name], out).code == 0
    assert out.read_bytes().startswith(b"<!DOCTYPE html>")
    assert (tmp_path / "page.html.part").read_text() == "a thesis"


def test_a_manifest_is_no_place_for_a_page(run: Run, made: Path) -> None:
    manifest = made / "run" / "manifest.json"
    before = manifest.read_bytes()
    assert "holds what unembed did not make" in run("report", made / "run", "-o", manifest).line
    assert manifest.read_bytes() == before


@pytest.mark.parametrize("there", [a_link, a_pipe])
def test_nothing_is_written_over_a_link_or_a_pipe(
    there: Callable[[Path], None], tmp_path: Path
) -> None:
    there(tmp_path / "file")
    kind = (tmp_path / "file").lstat().st_mode
    with pytest.raises(Exception, match="which would be replaced"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").lstat().st_mode == kind


def test_a_partial_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    a_link(tmp_path / "file.part")
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "victim").read_text() == "a thesis"
    assert (tmp_path / "file").read_bytes() == b"new"


VERBS: dict[str, tuple[str, ...]] = {
    "audit": ("MODEL", "TEXT"),
    "compare": ("MODEL", "TEXT", "--quantize", "int8"),
    "refine": ("MODEL", "TEXT"),
    "dose": ("MODEL", "TEXT"),
    "sketch": ("MODEL", "TEXT"),
    "align": ("TEXT", "OTHER", "--model", "MODEL"),
    "rank": ("TEXT", "OTHER", "--model", "MODEL"),
    "mix": ("TEXT", "OTHER", "TEXT2", "--model", "MODEL"),
}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("fault", ["no Unicode", "a file above", "the page is a link"])
def test_what_only_the_last_step_would_meet_is_refused_first(
    verb: str, fault: str, run: Run, llama_folder: Path, texts: list[Path], tmp_path: Path
) -> None:
    if verb == "sketch" and fault == "the page is a link":
        pytest.skip("a signature has no page")
    words = {"MODEL": llama_folder, "TEXT": texts[0], "OTHER": texts[1], "TEXT2": texts[2]}
    argv = [verb, *(words.get(word, word) for word in VERBS[verb])]
    out = tmp_path / "out"
    if fault == "no Unicode":
        out, said = tmp_path / "r\udcff", "is no UTF-8: rename"
    elif fault == "a file above":
        (tmp_path / "file").write_text("")
        out, said = tmp_path / "file" / "out", "cannot be written: Not a directory"
    else:
        out.mkdir()
        (out / ".lock").write_text("")
        (out / "journal.jsonl").write_text("")
        (out / "report.html").symlink_to(texts[0])
        said = "report.html is a link, which would be replaced"
    assert said in run(*argv, "-o", out).line


def test_a_document_whose_name_is_no_unicode_is_refused_before_the_pass(
    run: Run, llama_folder: Path, texts: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    shutil.copy(texts[0], os.fsencode(folder) + b"/\xff.txt")
    said = run("audit", llama_folder, folder, "-o", tmp_path / "run", *QUICK[2:]).line
    assert r"document '\udcff.txt:1' has a name that is no Unicode: rename" in said
    assert not (tmp_path / "run").exists()


def test_control_characters_and_marks_of_direction_are_shown(run: Run, tmp_path: Path) -> None:
    odd = f"{tmp_path}/\x1b[31m\u202etxt"
    assert r"⟨U+001B⟩[31m⟨U+202E⟩txt" in run("report", odd).line
    ended = run("report", "--\x1b[31m")
    assert (ended.code, "\x1b" in ended.err) == (2, False)
    ended = run("\x1b[31m")
    assert (ended.code, "\x1b" in ended.err) == (2, False)


def test_names_of_signatures_are_shown(
    run: Run, made: Path, llama_folder: Path, texts: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "odd.safetensors"
    assert (
        run("sketch", llama_folder, texts[0], "-o", file, *QUICK, "--name", "a\x1b[2Jb").code == 0
    )
    ended = run("align", file, made / "two.safetensors", "-o", tmp_path / "run")
    assert ended.code == 0
    assert "a⟨U+001B⟩[2Jb" in ended.out
    assert "\x1b" not in ended.out


@pytest.mark.parametrize("failure", [RuntimeError("out of memory"), BaseException("a panic")])
def test_a_page_that_cannot_be_drawn_leaves_the_run_whole(
    failure: BaseException,
    run: Run,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import vl_convert

    def fail(_spec: object) -> str:
        raise failure

    monkeypatch.setattr(vl_convert, "vegalite_to_svg", fail)
    two = [made / f"{name}.safetensors" for name in ("one", "two")]
    ended = run("align", *two, "-o", tmp_path / "run")
    assert ended.code == 0
    assert ended.out.splitlines()[-1].split() == ["run", str(tmp_path / "run")]
    assert f"no report: the charts cannot be drawn ({failure})" in ended.err
    monkeypatch.undo()
    assert run("report", tmp_path / "run").code == 0


def test_a_limit_on_memory_that_would_end_the_renderer_is_found_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawing._check_renderer.cache_clear()
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (1 << 30, 1 << 30))
    monkeypatch.setattr(drawing, "PROBE", "import os; os.abort()")
    with pytest.raises(drawing.ReportUnavailable, match="more address space"):
        drawing._check_renderer()
    monkeypatch.setattr(drawing, "PROBE", "")
    drawing._check_renderer()
    drawing._check_renderer.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_end_well(closed: tuple[int, ...], made: Path, tmp_path: Path) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    ended = subprocess.run(
        [sys.executable, "-m", "unembed", "report", made / "run", "-o", tmp_path / "page.html"],
        preexec_fn=close,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "page.html").is_file()


@pytest.mark.parametrize("verb", ["align", "rank", "mix"])
@pytest.mark.parametrize(
    ("option", "value"), [("--dtype", "float32"), ("--document", "x"), ("--device", "cpu")]
)
def test_options_of_a_model_that_is_not_read_are_refused(
    verb: str, option: str, value: str, run: Run, made: Path, tmp_path: Path
) -> None:
    three = [made / f"{name}.safetensors" for name in ("one", "two", "three")]
    ended = run(verb, *three, "-o", tmp_path / "run", option, value)
    assert f"{option} needs --model and texts" in ended.line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["rank", "mix"])
@pytest.mark.parametrize(("option", "value"), [("--context", "32"), ("--overflow", "truncate")])
def test_windows_of_texts_that_are_not_read_are_refused(
    verb: str, option: str, value: str, run: Run, made: Path, tmp_path: Path
) -> None:
    three = [made / f"{name}.safetensors" for name in ("one", "two", "three")]
    ended = run(verb, *three, "-o", tmp_path / "run", option, value)
    assert f"{option} needs --model and texts" in ended.line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wait", ["nan", "-1"])
def test_a_wait_that_is_no_time_is_refused(wait: str, run: Run, made: Path) -> None:
    ended = run("index", "remove", made / "index", "one", "--wait", wait)
    assert f"--wait {wait} is no time to wait" in ended.line


@pytest.mark.parametrize("verb", ["audit", "sketch", "refine", "compare"])
@pytest.mark.usefixtures("no_work")
def test_an_expression_that_begins_no_document_is_refused_first(
    verb: str, run: Run, llama_folder: Path, texts: list[Path], tmp_path: Path
) -> None:
    models = [llama_folder] * (2 if verb == "compare" else 1)
    ended = run(verb, *models, texts[0], "-o", tmp_path / "new", "--document", "bana+na")
    assert "--document 'bana+na' matches no line" in ended.line


@pytest.mark.usefixtures("no_work")
def test_a_logger_that_is_not_there_is_refused_first(
    run: Run, llama_folder: Path, texts: list[Path], tmp_path: Path
) -> None:
    ask = ("refine", llama_folder, texts[0], "-o", tmp_path / "new", "--report-to")
    assert "--report-to 'tensorbord' is unknown" in run(*ask, "tensorbord").line
    assert "needs its package: pip install mlflow" in run(*ask, "mlflow").line
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "verb", [("rank",), ("rank", "--by", "cka"), ("mix",), ("refine",), ("dose",), ("route",)]
)
def test_a_context_beyond_the_models_is_refused_before_a_text_is_read(
    verb: tuple[str, ...],
    run: Run,
    made: Path,
    llama_folder: Path,
    texts: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Corpus, "read", lambda *_a, **_k: pytest.fail("the text was read"))
    out, on = ("-o", tmp_path / "new"), ("--model", llama_folder)
    given: dict[str, tuple[object, ...]] = {
        "rank": ("rank", *texts, *on, *verb[1:], *out),
        "mix": ("mix", *texts, *on, *out),
        "refine": ("refine", llama_folder, texts[0], *out),
        "dose": ("dose", llama_folder, texts[0], *out),
        "route": ("index", "route", made / "index", texts[0], *on),
    }
    ended = run(*given[verb[0]], "--quiet", "--context", "9999")
    assert "--context 9999 is more than the" in ended.line
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("verb", ["audit", "compare", "ladder"])
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--top-k", "478", "--top-k 478 is more than the 477 tokens that the head of"),
        ("--context", "9999", "--context 9999 is more than the"),
    ],
)
def test_what_a_model_cannot_give_is_refused_before_the_text_is_read(
    verb: str,
    option: str,
    value: str,
    said: str,
    run: Run,
    llama_folder: Path,
    texts: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Corpus, "read", lambda *_a, **_k: pytest.fail("the text was read"))
    if verb != "audit":
        for place in ("compare.opened", "ladder.opened"):
            monkeypatch.setattr(f"unembed.cli.{place}", lambda *_a, **_k: pytest.fail("loaded"))
    models = [llama_folder] * (2 if verb == "compare" else 1)
    more = ("--quantize", "bf16", "--corpus", texts[1]) if verb == "ladder" else ()
    asked = (*models, texts[0], *more, "-o", tmp_path / "new", "--quiet", option, value)
    ended = run(verb.replace("ladder", "compare"), *asked)
    assert said in ended.line
    assert not (tmp_path / "new").exists()
