"""``unembed refine`` on the command line, and the names that a Python program needs for it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command_line import Ended, Run, invoke
from made_up.adapters import save_adapter
from unembed.cli.refine import HOLDING, MEASURING, MOVING, TERM, TRAINING, WEIGHTING, recipe_of
from unembed.errors import UnembedError
from unembed.models import adapters, checkpoint
from unembed.models.adapters import load_whole
from unembed.training.recipe.lora import Lora
from unembed.training.recipe.objectives import Objective
from unembed.training.recipe.protection import Protection
from unembed.training.recipe.recipe import Budget, Recipe
from unembed.training.recipe.schedule import Schedule
from unembed.training.recipe.weighting import Weighting
from unembed.training.run.refinement import Refinement

QUICK = (
    *("--steps", "4", "--batch-size", "2", "--context", "32", "--learning-rate", "1e-3"),
    *("--watch-every", "2", "--heldout", "0.4", "--quiet"),
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, topics: list[str]) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "short.txt"
    file.write_text("\n".join(topic[:80].replace("\n", " ") for topic in topics[:14]))
    return file


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, text: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "refined"
    assert invoke("refine", llama_folder, text, "-o", str(out), *QUICK) == 0
    return out


def bytes_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}


def given(**options: Any) -> dict[str, Any]:
    """What click hands over where these options were given and no others."""
    names = [
        option.name
        for part in (TERM, MOVING, TRAINING, MEASURING, WEIGHTING, HOLDING)
        for option in click_options(part)
        if option.name not in ("weight_values", "positions")
    ]
    assert options.keys() <= set(names)
    return {name: options.get(name) for name in names}


def click_options(part: Callable[[Any], Any]) -> list[Any]:
    def command() -> None: ...

    part(command)
    return list(command.__click_params__)  # type: ignore[attr-defined]


def test_what_is_left_out_is_the_recipes_own() -> None:
    assert recipe_of(given()) == Recipe()


def test_every_option_reaches_the_recipe() -> None:
    asked = given(
        objective="fisher",
        weight=0.0,
        k=3,
        threshold=2.0,
        direction="expand",
        scope="lora",
        lora_rank=4,
        lora_alpha=5,
        lora_targets=("q_proj", "v_proj"),
        steps=7,
        learning_rate=0.5,
        batch_size=2,
        accumulation=3,
        clip=0.0,
        seed=11,
        context=64,
        heldout=0.3,
        bf16=True,
        gradient_checkpointing=True,
        save_dtype="float32",
        weight_frequency=0.5,
        weight_classes=("numeric=2", "*=0.5"),
        only_below=1.5,
        only_right=True,
        protect_ewc=1.0,
        protect_margin=2.0,
        protect_kl=3.0,
        protect_classes=("function",),
        budget_nll=0.01,
        budget_right_to_wrong=0.02,
        budget_classes=("numeric",),
        watch_every=9,
        audit_positions=77,
    )
    assert recipe_of(asked) == Recipe(
        objective=Objective("fisher", 3, 2.0, "expand"),
        weight=0.0,
        scope="lora",
        lora=Lora(4, 5, targets=("q_proj", "v_proj")),
        weighting=Weighting(0.5, {"numeric": 2.0, "*": 0.5}, below_margin=1.5, only_right=True),
        protection=Protection(1.0, 2.0, 3.0, ("function",)),
        budget=Budget(0.01, 0.02, ("numeric",)),
        steps=7,
        learning_rate=0.5,
        batch_size=2,
        accumulation=3,
        clip=0.0,
        seed=11,
        context=64,
        heldout=0.3,
        bf16=True,
        gradient_checkpointing=True,
        save_dtype="float32",
        watch_every=9,
        audit_positions=77,
    )
    assert recipe_of(given(scope="head", untie=True)) == Recipe(scope="head", untie=True)
    asked = given(gradient_share=0.1, penalty_after=0.5, penalty_ramp=0.25)
    assert recipe_of(asked) == Recipe(gradient_share=0.1, schedule=Schedule(0.5, 0.25))
    assert recipe_of(given(row_bound=2.5)) == Recipe(row_bound=2.5)


def test_the_help_names_the_defaults_of_the_recipe() -> None:
    plain = Recipe()
    records = (plain.objective, Lora(), plain)
    values = {f.name: getattr(r, f.name) for r in records for f in dataclasses.fields(r)}
    values |= {"lora_rank": Lora().rank, "lora_alpha": Lora().alpha, "objective": "fisher"}
    told = 0
    for part in (TERM, MOVING, TRAINING, MEASURING, HOLDING):
        for option in click_options(part):
            value = values.get(option.name)
            if option.default_is and value is not None:
                shown = option.default_is.split()[0].replace(",", "")
                assert f"[default: {option.default_is}]" in option.help
                assert shown == (f"{value:g}" if isinstance(value, float) else str(value)), option
                told += 1
    assert told >= 17


def test_a_refinement_leaves_a_model_two_comparisons_and_pages(
    run: Run,
    refined: Path,
    llama_folder: Path,
    text: Path,
) -> None:
    before = bytes_of(refined)
    pages = ("report.html", "heldout/report.html", "training/report.html")
    assert {"model/config.json", "summary.json", *pages} <= before.keys()
    manifest = json.loads(before["manifest.json"])
    assert manifest["command"].startswith(f"unembed refine {llama_folder} {text} -o ")
    again = run("refine", llama_folder, text, "-o", refined, *QUICK)
    assert again.code == 0
    assert again.err == f"{refined} was finished before: verified, nothing computed again\n"
    assert max(map(len, again.out.partition("\n\n")[2].splitlines()[:-2])) <= 100
    found = str(Refinement.load(refined).verdict).replace("\u00a0", " ")
    assert again.out.startswith(f"{found}\n\nobjective ")
    assert "| training" in again.out
    assert bytes_of(refined) == before
    assert run("refine", llama_folder, text, "-o", refined, *QUICK).out == again.out
    as_json = run("refine", llama_folder, text, "-o", refined, *QUICK, "--json")
    assert json.loads(as_json.out) == {
        "run": str(refined),
        "verdict": Refinement.load(refined).verdict.to_json(),
        "summary": json.loads(before["summary.json"]),
    }
    assert "holds another run" in run("refine", llama_folder, text, "-o", refined).line


def test_the_refined_model_is_a_checkpoint_as_any_other(
    run: Run,
    refined: Path,
    text: Path,
    tmp_path: Path,
) -> None:
    ended = run("audit", refined / "model", text, "-o", tmp_path / "run", "--quiet")
    assert ended.code == 0, ended.err


def test_report_draws_all_three_pages_again(
    run: Run,
    refined: Path,
    tmp_path: Path,
) -> None:
    before = bytes_of(refined)
    pages = [path for path in before if path.endswith("report.html")]
    assert len(pages) == 3
    for page in pages:
        (refined / page).unlink()
    assert run("report", refined) == Ended(0, f"{refined}/report.html\n", "")
    assert bytes_of(refined) == before
    elsewhere = tmp_path / "pages" / "page.html"
    assert run("report", refined, "-o", elsewhere).code == 0
    links = re.findall(r'href="([^"#]*report\.html)"', elsewhere.read_text())
    # Each stands at the top of the page and in its text.
    assert [(elsewhere.parent / link).resolve() for link in dict.fromkeys(links)] == [
        refined / "heldout/report.html",
        refined / "training/report.html",
    ]


@pytest.mark.parametrize(
    "name", ["model/model.safetensors", "trained.json", "heldout/before/summary.json"]
)
def test_a_changed_file_of_a_refinement_is_named(
    run: Run, refined: Path, tmp_path: Path, name: str
) -> None:
    copy = shutil.copytree(refined, tmp_path / "copy")
    with (copy / name).open("ab") as file:
        file.write(b" ")
    assert f"{name} is damaged" in run("report", copy).line
    (copy / name).unlink()
    assert f"{name} is missing" in run("report", copy).line


BAD = [
    (["--objective", "hinge"], "'--objective': 'hinge' is not one of 'none', 'margin'"),
    (["--weight", "-1"], "weight is -1.0: give a number from 0 up"),
    (["--gradient-share", "-0.1"], "gradient_share -0.1 is no share of a gradient: give 0 or"),
    (["--gradient-share", "nan"], "gradient_share nan is no share of a gradient: give 0 or more"),
    (["--gradient-share", "0.1", "--weight", "0.6"], "--weight 0.6 and --gradient-share 0.1 both"),
    (["--penalty-after", "1"], "after 1.0 of the steps: give a share from 0 up and below 1"),
    (["--penalty-after", "0.7", "--penalty-ramp", "0.5"], "after 0.7 and ramp 0.5 make 1.2 of"),
    (["--row-bound", "1"], "row_bound 1.0 is no bound of a row's weights: give how many root mean"),
    (["--row-bound", "2.5", "--scope", "head"], "bounds weights that scope 'head' does not move"),
    (["--k", "1"], "k 1 is less than the 2 tokens"),
    (["--direction", "sideways"], "'--direction': 'sideways' is not one of 'contract', 'expand'"),
    (["--scope", "tail"], "scope 'tail' is not one of full"),
    (["--untie", "--scope", "final-norm"], "untie with scope 'final-norm' changes nothing"),
    (["--lora-rank", "4"], "scope 'full' takes no LoRA settings"),
    (["--steps", "0"], "steps is 0: give at least 1"),
    (["--heldout", "1"], "heldout is 1.0: give a share below 1"),
    (["--weight-class", "numeric"], "--weight-class 'numeric' is not CLASS=VALUE"),
    (["--weight-class", "numeric=much"], "--weight-class 'numeric=much' is not CLASS=VALUE"),
    (["--weight-class", "verb=2"], "'verb' is no token class"),
    (["--only-below", "0"], "below_margin is 0.0: give a number above 0"),
    (["--protect-class", "numeric"], "give kl a weight"),
    (["--budget-class", "numeric"], "needs a bound on right_to_wrong"),
    (["--weight-values", "missing.csv"], "missing.csv cannot be read"),
    (["--positions", "missing.parquet"], "missing.parquet cannot be read as Parquet"),
    (["--context", "65"], "65"),
]


@pytest.mark.parametrize(("options", "said"), BAD)
def test_options_that_cannot_be_used(
    options: list[str],
    said: str,
    run: Run,
    llama_folder: Path,
    text: Path,
    tmp_path: Path,
) -> None:
    ended = run("refine", llama_folder, text, "-o", tmp_path / "run", "--quiet", *options)
    assert said in ended.line
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_control_and_little_text_are_told(
    run: Run, llama_folder: Path, text: Path, tmp_path: Path
) -> None:
    two = tmp_path / "two.txt"
    two.write_text("\n".join(text.read_text().splitlines()[:2]))
    asked = ("refine", llama_folder, two, "-o", tmp_path / "run", *QUICK, "--control")
    ended = run(*asked)
    assert ended.code == 0, ended.err
    assert "note: 1 of 2 documents are trained on and 1 held out: no figure will have" in ended.err
    assert "held out, minus the control" in ended.out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What the penalty adds" in page
    assert 'href="over-control/report.html"' in page
    assert "Trust: only 1 held-out document, and 1 to train on." in ended.out
    assert "Trust: only 1 held-out document, and 1 to train on." in page
    assert "note:" not in run(*asked).err


@pytest.mark.parametrize(
    "options", [("--objective", "none"), ("--weight", "0"), ("--gradient-share", "0")]
)
def test_a_control_of_a_control_is_refused_before_the_model_is_loaded(
    options: tuple[str, str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "load", lambda *_a, **_k: pytest.fail("it was loaded"))
    ended = run("refine", "m", "c", "-o", tmp_path / "run", *options, "--control")
    assert f"{options[0][2:].replace('-', ' ')} {options[1]} is the control itself" in ended.line
    assert "leave out --control" in ended.line


def test_values_and_positions_are_read(
    run: Run,
    llama_folder: Path,
    text: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "values.csv").write_text("id,value\n5,2.5\n")
    pq.write_table(pa.table({"doc": [0, 1, 2, 3], "pos": [1, 1, 1, 1]}), tmp_path / "at.parquet")
    files = ("--weight-values", tmp_path / "values.csv", "--positions", tmp_path / "at.parquet")
    ended = run("refine", llama_folder, text, "-o", tmp_path / "run", *QUICK, *files)
    assert ended.code == 0, ended.err
    key = json.loads((tmp_path / "run" / "manifest.json").read_text())["provenance"]
    assert key["recipe"]["weighting"]["values"] in ({"5": 2.5}, {5: 2.5})
    assert key["positions"] is not None


def test_without_accelerate_one_line_says_so(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unembed.training.run.engine.find_spec", lambda _name: None)
    ended = run("refine", "m", "c", "-o", tmp_path / "run")
    assert ended.line == "a refinement needs accelerate: pip install 'unembed[train]'"


def test_recipe_of_refuses_no_option_that_it_does_not_know() -> None:
    with pytest.raises(TypeError):
        recipe_of({"no_such": 1})
    with pytest.raises(UnembedError):
        recipe_of(given(weight=-1.0))


@pytest.mark.slow
def test_an_adapter_is_refined_to_a_plain_checkpoint(
    run: Run, llama: Any, llama_folder: Path, text: Path, tmp_path: Path
) -> None:
    adapter = save_adapter(llama, tmp_path / "reviews")
    base = ("--base", llama_folder)
    less = ("--objective", "none", "--steps", "2")
    ended = run("refine", adapter, text, "-o", tmp_path / "run", *base, *QUICK, *less)
    assert ended.code == 0, ended.err
    files = {path.name for path in (tmp_path / "run" / "model").iterdir()}
    assert not [name for name in files if "adapter" in name]
    start, plain, refined = (
        load_whole(name, device="cpu", base=on).model.state_dict()
        for name, on in (
            (adapter, str(llama_folder)),
            (llama_folder, None),
            (tmp_path / "run" / "model", None),
        )
    )
    assert refined.keys() == plain.keys() == start.keys()
    # It starts from the adapted model: a few steps are small beside the adapter.
    moved, adapted = (
        sum(float((refined[name] - one[name]).norm()) for name in refined if "q_proj" in name)
        for one in (start, plain)
    )
    assert moved < adapted / 2


@pytest.mark.parametrize("verb", ["refine", "dose"])
def test_an_adapter_in_place_is_not_trained(
    verb: str,
    run: Run,
    llama: Any,
    llama_folder: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(shutil.copytree(llama_folder, tmp_path / "model"))
    save_adapter(llama, folder)
    monkeypatch.setattr(checkpoint, "load", lambda *_a, **_k: pytest.fail("it was loaded"))
    monkeypatch.setattr(adapters, "load", lambda *_a, **_k: pytest.fail("it was loaded"))
    more = ("--benchmark", "piqa") if verb == "refine" else ()
    ended = run(verb, folder, text, "-o", tmp_path / "run", *more)
    assert "model holds an adapter beside its weights, which is put in place" in ended.line
    assert f"give that with --base {folder}" in ended.line


def test_benchmarks_of_an_adapter_are_refused_before_the_work(
    run: Run,
    llama: Any,
    llama_folder: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The harness loads a model by its name, and would run the base."""
    adapter = save_adapter(llama, tmp_path / "reviews")
    monkeypatch.setattr(adapters, "load", lambda *_a, **_k: pytest.fail("it was loaded"))
    asked = ("--base", llama_folder, "--benchmark", "piqa")
    ended = run("refine", adapter, text, "-o", tmp_path / "run", *asked)
    assert ended.line.startswith("--benchmark piqa loads the starting model by its name, and ")
    assert "merge_and_unload()" in ended.line
