"""A refinement, from a model and a text to a checkpoint and two comparisons, and how it fails."""

from __future__ import annotations

import copy
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers as tf

from conftest import train_tokenizer
from made_up.corpora import TEXTS
from made_up.models import longrope_model, small_model
from unembed.decisions.audit.audit import Audit, audit
from unembed.decisions.audit.run import AuditOptions
from unembed.decisions.comparison.summary import ComparisonSummary
from unembed.errors import UnembedError
from unembed.head.product import Route, float32_products
from unembed.models.checkpoint import Checkpoint, load, token_ids
from unembed.text.batches import BatchPlan, batches
from unembed.text.corpus import Corpus
from unembed.text.rows import PromptCompletion
from unembed.text.vocabulary import Vocabulary
from unembed.text.windows import Windows
from unembed.training.recipe.lora import Lora
from unembed.training.recipe.objectives import Objective
from unembed.training.recipe.protection import Protection
from unembed.training.recipe.recipe import Budget, Recipe, control_of
from unembed.training.recipe.schedule import Schedule
from unembed.training.recipe.weight_files import read_values
from unembed.training.recipe.weighting import Positions, Weighting
from unembed.training.run import refinement
from unembed.training.run import train as module
from unembed.training.run.examples import split
from unembed.training.run.head_hook import HeadHook
from unembed.training.run.heldout_check import HeldoutCheck
from unembed.training.run.refinement import Refinement, refine
from unembed.training.run.rounding import Rounding
from unembed.training.run.summary import summarise_refinement
from unembed.training.run.train import train

SENTENCES = [
    f"{first} {then} {last}"
    for first in ("the cat", "a dog", "12 birds", "some Fish")
    for then in ("sat on", "ran from", "looked at")
    for last in ("the mat.", "a tree (2).")
]
QUICK = Recipe(
    steps=6,
    watch_every=2,
    batch_size=4,
    learning_rate=3e-3,
    context=16,
    watch_positions=60,
    audit_positions=80,
)


def taught(tokenizer: Any, name: str = "llama") -> Any:
    """A small model that has learnt the sentences, so that some of its decisions are right."""
    model = small_model(name)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = [torch.tensor([tokenizer(text)["input_ids"]]) for text in SENTENCES]
    for step in range(60):
        ids = rows[step % len(rows)]
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def corpus(small_tokenizer: Any) -> Corpus:
    return Corpus.from_texts(SENTENCES, small_tokenizer)


@pytest.fixture(scope="module")
def llama(small_tokenizer: Any) -> Checkpoint:
    return Checkpoint("taught", taught(small_tokenizer), small_tokenizer)


def bits(model: Any) -> dict[str, Any]:
    return {name: (p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}


def untouched(model: Any, before: dict[str, Any]) -> bool:
    now = dict(model.named_parameters())
    return now.keys() == before.keys() and all(
        torch.equal(now[name], p) and now[name].requires_grad == needs
        for name, (p, needs) in before.items()
    )


def saved(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model" / "model.safetensors")


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(w, other[n]) for n, w in one.items())


def split_text(checkpoint: Checkpoint, corpus: Corpus, recipe: Recipe) -> tuple[Corpus, Corpus]:
    part = split(corpus, recipe.heldout)
    return part.training, part.heldout


def trained(checkpoint: Checkpoint, corpus: Corpus, recipe: Recipe, out: Path) -> Any:
    return train(checkpoint, *split_text(checkpoint, corpus, recipe), recipe, out)


@pytest.mark.parametrize(
    ("name", "dtype", "scope"),
    [("llama", torch.float32, "full"), ("gemma2", torch.bfloat16, "lora")],
)
def test_a_refinement_leaves_the_model_alone_and_saves_one_that_audits_the_same(
    name: str, dtype: torch.dtype, scope: str, corpus: Corpus, tmp_path: Path
) -> None:
    model = small_model(name, dtype)
    model.get_input_embeddings().weight.requires_grad_(False)
    before, config = bits(model), copy.deepcopy(model.config)
    given = Checkpoint("tiny", model, corpus.tokenizer)
    recipe = replace(QUICK, scope=scope, seed=3)
    done = refine(given, corpus, recipe, out=tmp_path / "run")
    assert untouched(model, before)
    assert model.config == config
    assert not hasattr(model, "peft_config")
    assert not (tmp_path / "run" / "checkpoints").exists()

    plain = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert type(plain) is type(model)
    assert {p.dtype for p in plain.parameters()} == {dtype}
    assert plain.config.use_cache == config.use_cache
    after = dict(plain.named_parameters())
    assert any(not torch.equal(after[n], p) for n, (p, _) in before.items())

    heldout = split_text(given, corpus, recipe)[1]
    options = AuditOptions(context=recipe.context, max_positions=recipe.audit_positions)
    again = audit(load(tmp_path / "run" / "model").model, heldout, options, name="again")
    kept = Audit.load(tmp_path / "run" / "heldout" / "after")
    for column in ("top1", "margin", "nll", "relative_distance"):
        assert np.array_equal(again.column(column), kept.column(column)), column

    assert Refinement.load(tmp_path / "run").summary == done.summary
    assert done.summary.steps == len(done.summary.log) == recipe.steps
    assert [seen.step for seen in done.summary.watched] == [0, 2, 4, 6]
    assert done.summary.stopped is None
    assert "churn" in str(done)
    assert "churn" in done._repr_html_()


def test_a_finished_refinement_is_only_read(
    llama: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(QUICK, steps=2)
    first = refine(llama, corpus, recipe, out=tmp_path / "run")
    monkeypatch.setattr(refinement, "train", None)
    assert refine(llama, corpus, recipe, out=tmp_path / "run").summary == first.summary
    with pytest.raises(UnembedError, match="weight"):
        refine(llama, corpus, replace(recipe, weight=0.1), out=tmp_path / "run")


def test_a_control_is_the_same_training_without_its_penalty(
    llama: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(QUICK, steps=4, weight=3.0, seed=5)
    out, begun, trains = tmp_path / "run", [], refinement.train

    def counted(*given: Any, **how: Any) -> Any:
        begun.append(given[3])
        return trains(*given, **how)

    def killed(*_given: object, **_how: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(refinement, "train", counted)
    compares = refinement.compare
    monkeypatch.setattr(
        refinement, "compare", lambda *a, **k: (killed if "over" in str(k) else compares)(*a, **k)
    )
    with pytest.raises(KeyboardInterrupt):
        refine(llama, corpus, recipe, out=out, control=True)
    assert [one.objective.name for one in begun] == ["fisher", "none"]
    weights = saved(out / "control")
    monkeypatch.setattr(refinement, "compare", compares)
    # What was killed after the control is not trained again.
    monkeypatch.setattr(module._TrainingJob, "run", killed)
    done = refine(llama, corpus, recipe, out=out, control=True)
    monkeypatch.undo()

    plain = replace(recipe, objective=Objective("none"), weight=0.0)
    alone = refine(llama, corpus, plain, out=tmp_path / "alone")
    assert alone.summary.control is None
    assert list(alone.sub_runs) == ["heldout", "training"]
    assert same_weights(saved(out / "control"), weights)
    assert same_weights(saved(tmp_path / "alone"), weights)
    assert not same_weights(saved(out), weights)

    loaded = Refinement.load(out)
    assert loaded.summary == done.summary
    assert list(loaded.sub_runs) == ["heldout", "training", "over-control"]
    before, after = (
        Audit.load(run / "heldout" / "after").column("nll").astype(float)
        for run in (tmp_path / "alone", out)
    )
    found = loaded.summary.control
    assert found is not None
    assert found == loaded.sub_runs["over-control"].summary  # type: ignore[attr-defined]
    assert float(found.calibration.nll_difference_nats) == pytest.approx((after - before).mean())
    assert "held out, minus the control" in str(loaded)
    assert "minus the control" not in str(alone)
    with pytest.raises(UnembedError, match="control"):
        refine(llama, corpus, recipe, out=out)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (replace(QUICK, objective=Objective("none")), "objective none is the control itself"),
        (replace(QUICK, weight=0.0), "weight 0 is the control itself"),
        (replace(QUICK, gradient_share=0.0), "gradient share 0 is the control itself"),
    ],
)
def test_a_control_has_no_control(
    recipe: Recipe, words: str, llama: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    with pytest.raises(UnembedError, match=words) as caught:
        refine(llama, corpus, recipe, out=tmp_path / "run", control=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_share_and_a_schedule_are_told_step_by_step(
    llama: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    recipe = replace(QUICK, gradient_share=0.5, schedule=Schedule(after=0.5, ramp=0.25))
    assert recipe.weight == 0.0
    run = refine(llama, corpus, recipe, out=tmp_path / "run")
    summary = run.summary
    assert summary.has_penalty
    assert (summary.gradient_share, summary.schedule) == (0.5, recipe.schedule)
    weights = [step.weight for step in summary.log]
    assert weights[:4] == [0.0] * 4  # the fourth is the ramp's foot
    assert all(weight is not None and weight > 0 for weight in weights[4:])
    ratios = [step.gradient_ratio for step in summary.log]
    assert ratios[:4] == [None] * 4
    assert ratios[4:] == pytest.approx([0.5 * 2 / 3, 0.5], rel=1e-5)
    words = "fisher at 50.0 % of the loss's gradient, after 50.0 % of the steps, rising over 25.0 %"
    assert words in str(run).replace("\u00a0", " ")
    assert Refinement.load(run.folder).summary == summary


def test_a_recipe_of_an_earlier_version_has_the_key_it_had() -> None:
    plain = Recipe().to_json()
    assert "gradient_share" not in plain
    assert "schedule" not in plain
    shared = Recipe(gradient_share=0.1, schedule=Schedule(after=0.5)).to_json()
    assert (shared["weight"], shared["gradient_share"]) == (0.0, 0.1)
    assert shared["schedule"] == {"after": 0.5, "ramp": 0.0}
    assert control_of(Recipe(gradient_share=0.1)) == control_of(Recipe())
    with pytest.raises(UnembedError, match="both say"):
        Recipe(weight=0.3, gradient_share=0.1)


def test_a_refinement_without_gradients_and_of_a_model_in_training(
    small_tokenizer: Any, tmp_path: Path
) -> None:
    text = Corpus.from_pairs(
        [PromptCompletion(f"{one} " * 3, f"{one}") for one in [*SENTENCES[:7], SENTENCES[0]]],
        small_tokenizer,
    )
    model = small_model("llama").train()
    recipe = replace(QUICK, steps=2, watch_every=2)
    with torch.no_grad():
        done = refine(Checkpoint("m", model, small_tokenizer), text, recipe, out=tmp_path / "run")
    assert all(module.training for module in model.modules())
    assert "1 of 8 documents are exact copies" in done.summary.notes[0]
    assert "prompts were cut on the left" in done.summary.notes[1]
    assert done.summary.notes[1] in str(done)
    assert done.summary.steps == 2


def test_other_positions_are_another_run(
    llama: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_args: object, **_how: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(refinement, "train", stop)
    docs = np.arange(len(corpus.names), dtype=np.int64) << 32
    ones = np.ones(len(docs), dtype=np.float32)
    for positions in (Positions(docs, ones), Positions(docs, ones)):
        with pytest.raises(KeyboardInterrupt):
            refine(llama, corpus, QUICK, out=tmp_path / "run", positions=positions)
    with pytest.raises(UnembedError):
        refine(llama, corpus, QUICK, out=tmp_path / "run", positions=Positions(docs + 1, ones))
    with pytest.raises(UnembedError):
        refine(llama, corpus, QUICK, out=tmp_path / "run", positions=Positions(docs, ones / 2))


def in_process(out: Path, killed_at: int) -> None:
    """Train a GPT-2, with dropout and anchors, and be killed when a step begins."""
    tokenizer = train_tokenizer(SENTENCES, 290)
    corpus = Corpus.from_texts(SENTENCES, tokenizer)
    checkpoint = Checkpoint("taught", small_model("gpt2"), tokenizer)

    class Killer(module.StopCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if killed_at == state.max_steps:
                os.kill(os.getpid(), signal.SIGKILL)

    module.StopCallback = Killer
    recipe = replace(QUICK, steps=9, accumulation=2, protection=Protection(ewc=1.0, kl=0.1))
    trained(checkpoint, corpus, recipe, out)


def in_processes(*runs: tuple[Path, int]) -> list[int]:
    """``in_process`` for each of them, and how each ended.

    One import of the libraries for all: the parent forks, the child is killed. This process will
    not do, for what other tests left behind in it may round differently.
    """
    words = [word for out, step in runs for word in (str(out), str(step))]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [int(code) for code in done.stdout.split()]


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """Between checkpoints, while one is half-written, and between the last step and the model."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert in_processes((whole, -1), *((killed, step) for step in (3, 8, 9))) == [
        0,
        *[-signal.SIGKILL] * 3,
    ]
    assert not (killed / "model").exists()
    newest = killed / "checkpoints" / "checkpoint-8"
    state = newest / "trainer_state.json"
    state.write_bytes(state.read_bytes()[:200])
    (killed / "checkpoints" / "checkpoint-9").mkdir()
    (killed / "model.part").mkdir()
    assert in_processes((killed, -1)) == [0]
    assert same_weights(saved(killed), saved(whole))
    notes = [json.loads((out / "trained.json").read_text()) for out in (killed, whole)]
    for note in notes:
        note["log"] = [line for line in note["log"] if "loss" in line or "watched" in line]
    assert notes[0] == notes[1]
    assert len([line for line in notes[0]["log"] if "loss" in line]) == 9
    assert not (killed / "model.part").exists()
    assert not (killed / "checkpoints").exists()


def refused(given: Checkpoint, corpus: Corpus, recipe: Recipe, out: Path, words: str) -> None:
    """One line with these words; the model is as it was, and none is left in ``out``."""
    before, mode = bits(given.model), given.model.training
    with pytest.raises(UnembedError, match=words) as caught:
        trained(given, corpus, recipe, out)
    assert "\n" not in str(caught.value)
    assert untouched(given.model, before)
    assert given.model.training == mode
    assert not (out / "model").exists()
    assert not (out / "model.part").exists()
    assert not (out / "trained.json").exists()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"weight": -0.1}, "weight is -0.1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"heldout": 0.0}, "heldout is 0"),
        ({"heldout": 1.0}, "heldout is 1.0"),
        ({"steps": 0}, "steps is 0"),
        ({"context": 2}, "context is 2.* 3"),
        ({"scope": "tail"}, "scope 'tail'"),
        ({"scope": "final-norm", "untie": True}, "untie"),
    ],
)
def test_what_a_recipe_cannot_be(how: dict[str, Any], words: str) -> None:
    with pytest.raises(UnembedError, match=words) as caught:
        Recipe(**how)
    assert "\n" not in str(caught.value)


def test_what_its_parts_cannot_be(tmp_path: Path, small_tokenizer: Any) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("token,value\n")
    for make, words in (
        (lambda: Budget(nll=-0.1), "the budget of nll is -0.1"),
        (lambda: Budget(right_to_wrong=float("nan")), "right_to_wrong is nan"),
        (lambda: Budget(right_to_wrong=0.1, classes=("verbs",)), "'verbs' is no token class"),
        (lambda: Budget(classes=("numeric",)), "needs a bound on right_to_wrong"),
        (lambda: Weighting(classes={"verbs": 2.0}), "'verbs' is no token class"),
        (lambda: Protection(kl=1.0, classes=("verbs",)), "'verbs' is no token class"),
        (lambda: read_values(empty, small_tokenizer), "lists no tokens"),
    ):
        with pytest.raises(UnembedError, match=words) as caught:
            make()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"learning_rate": 1e30, "clip": 0.0}, "not finite"),
        ({"learning_rate": 1e30, "watch_every": 1}, "not finite|the run diverged"),
        ({"learning_rate": 1.0, "steps": 30, "watch_every": 30}, "the run diverged"),
        ({"scope": "last-9-blocks"}, "asks for more than the 2 blocks"),
        ({"scope": "lora", "lora": Lora(targets=("z_proj",))}, "'z_proj'"),
        ({"context": 65}, "more than the 64 tokens"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    how: dict[str, Any], words: str, llama: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    refused(llama, corpus, replace(QUICK, **how), tmp_path / "run", words)


def test_a_model_of_nan_is_refused_before_it_is_trained(corpus: Corpus, tmp_path: Path) -> None:
    model = small_model("llama").train()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3] = torch.nan
    given = Checkpoint("broken", model, corpus.tokenizer)
    with pytest.raises(UnembedError, match="not finite before the first step"):
        trained(given, corpus, QUICK, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_a_run_that_stands_still_does_not_diverge(
    llama: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """Batches of one window: their losses lie far apart, and the model is as it was."""
    model = copy.deepcopy(llama.model)
    with torch.no_grad():
        model.lm_head.weight *= 12  # sure of itself: a wrong token costs more than a guess
    sharp = Checkpoint("sharp", model, llama.tokenizer)
    recipe = replace(QUICK, steps=12, batch_size=1, context=3, learning_rate=1e-9, watch_every=12)
    note = trained(sharp, corpus, recipe, tmp_path / "run").note
    losses = [line["cross_entropy"] for line in note["log"] if "loss" in line]
    assert len(losses) == 12
    assert max(losses) > max(np.log(300), losses[0] + 3)  # what was taken for a divergence


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tensorbord", "'tensorbord' is unknown: give one of .*tensorboard"),
        ("mlflow", "pip install"),
    ],
)
def test_a_logger_that_is_not_there_is_refused_before_the_work(
    name: str, words: str, llama: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    with pytest.raises(UnembedError, match=words) as caught:
        refine(llama, corpus, QUICK, out=tmp_path / "run", report_to=(name,))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


DAMAGES = {
    "model.safetensors": lambda data: data[: len(data) // 2],
    "optimizer.pt": lambda data: data[:-9],
    "trainer_state.json": lambda data: data[:200],
    "rng_state.pth": lambda data: b"",
    "scheduler.pt": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    name: str,
    llama: Checkpoint,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Halt(module.StopCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "StopCallback", Halt)
        with pytest.raises(KeyboardInterrupt):
            trained(llama, corpus, QUICK, tmp_path / "run")
    damaged = tmp_path / "run" / "checkpoints" / "checkpoint-4" / name
    damaged.write_bytes(DAMAGES[name](damaged.read_bytes()))
    capsys.readouterr()
    trained(llama, corpus, QUICK, tmp_path / "run")
    said = capsys.readouterr().err
    assert f"checkpoint of step 4 is damaged ({name} has changed): going on from step 2" in said
    trained(llama, corpus, QUICK, tmp_path / "whole")
    assert same_weights(saved(tmp_path / "run"), saved(tmp_path / "whole"))


def test_what_the_saved_dtype_rounds_away_is_told(corpus: Corpus, tmp_path: Path) -> None:
    model = small_model("llama", torch.bfloat16)
    given, kept = Checkpoint("tiny", model, corpus.tokenizer), {}
    before = {name: p.detach().float() for name, p in model.named_parameters()}
    for dtype in (None, "float32"):
        recipe = replace(QUICK, steps=2, learning_rate=1e-6, save_dtype=dtype)
        done = trained(given, corpus, recipe, tmp_path / str(dtype))
        after = saved(tmp_path / str(dtype))
        told = Rounding(**done.note["rounding"])
        differ = sum(int((after[name].float() != p).sum()) for name, p in before.items())
        assert {w.dtype for w in after.values()} == {getattr(torch, dtype or "bfloat16")}
        assert told.kept == differ
        assert told.dtype == (dtype or "bfloat16")
        side = object.__new__(ComparisonSummary)
        kept[dtype] = summarise_refinement(recipe, done.note, side, side).rounding
    assert kept[None] is not None
    assert kept["float32"] is not None
    assert kept[None].moved == kept["float32"].moved == kept["float32"].kept
    assert 0 < kept[None].kept < 0.3 * kept[None].moved
    with pytest.raises(UnembedError, match="save_dtype 'int8'"):
        Recipe(save_dtype="int8")


def test_a_single_document_cannot_be_split(llama: Checkpoint, tmp_path: Path) -> None:
    single = Corpus.from_texts([SENTENCES[0]], llama.tokenizer)
    with pytest.raises(UnembedError, match="--document"):
        refine(llama, single, QUICK, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("limit", [60_000, 250_000, 400_000])
def test_a_disk_that_fills_is_one_line_and_the_run_goes_on_later(
    limit: int, llama: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """No file may outgrow the limit: weights of 151 kB, or the optimiser's 310 kB, or neither."""
    recipe = replace(QUICK, steps=5)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        if limit < 400_000:
            words = "could not be written"
            refused(llama, corpus, recipe, tmp_path / "run", words)
        else:
            trained(llama, corpus, recipe, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    again = trained(llama, corpus, recipe, tmp_path / "run")
    assert len([line for line in again.note["log"] if "loss" in line]) == 5
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_model_that_cannot_be_written_is_not_there(
    llama: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_how: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(llama.tokenizer), "save_pretrained", full)
        refused(llama, corpus, QUICK, tmp_path / "run", "No space left on device")
    whole = trained(llama, corpus, QUICK, tmp_path / "whole")
    after = trained(llama, corpus, QUICK, tmp_path / "run")
    assert same_weights(saved(tmp_path / "run"), saved(tmp_path / "whole"))
    assert after.note["n_moving"] == whole.note["n_moving"]


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(nll=0.05), "held-out loss rose by"),
        (Budget(right_to_wrong=0.02), "went from right to wrong"),
        (Budget(right_to_wrong=0.02, classes=("function",)), "went from right to wrong"),
    ],
)
def test_a_run_past_its_budget_ends_with_the_last_good_weights(
    budget: Budget, words: str, llama: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """The penalty alone, at a rate that grows: some watches pass before one does not."""
    recipe = replace(
        QUICK, ce_weight=0.0, weight=1.0, watch_every=1, steps=40, warmup=0.99, learning_rate=3e-2,
        watch_positions=400,
    )  # fmt: skip
    stopped = trained(llama, corpus, replace(recipe, budget=budget), tmp_path / "run")
    seen = [line["watched"] for line in stopped.note["log"] if "watched" in line]
    last = seen[-1]["step"]
    assert 2 <= last < 40
    assert words in stopped.note["stopped"]
    assert stopped.note["stopped"].startswith(f"at step {last} ")
    bounds = [one["nll"] for one in seen] if budget.nll else [one["right_to_wrong"] for one in seen]
    limit = budget.right_to_wrong
    if limit is None:
        # A bound that is met to the bit is kept: the start's own loss comes first.
        limit = bounds[-1] - 1e-9
        assert bounds[-2] < bounds[-1]
    assert all(bound <= limit for bound in bounds[:-1])
    assert bounds[-1] > limit
    # The good weights: those of a run that is stopped by hand one step before.
    good: dict[str, torch.Tensor] = {}

    class Keeper(module.StopCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            super().on_step_end(args, state, control, **given)
            if state.global_step == last - 1:
                good.update({n: p.detach().clone() for n, p in given["model"].named_parameters()})
                control.should_training_stop = True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "StopCallback", Keeper)
        trained(llama, corpus, recipe, tmp_path / "free")
    assert same_weights(saved(tmp_path / "run"), good)


@pytest.mark.parametrize("budget", [Budget(), Budget(nll=99.0), Budget(right_to_wrong=1.0)])
def test_weights_to_go_back_to_are_kept_where_a_budget_may_need_them(
    budget: Budget, llama: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    kept: list[dict[str, torch.Tensor]] = []

    class Keeper(module.StopCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            kept.append(self.good)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "StopCallback", Keeper)
        trained(llama, corpus, replace(QUICK, budget=budget), tmp_path / "run")
    [good] = kept
    if budget.bounded:
        assert same_weights(saved(tmp_path / "run"), good)
    else:
        assert good == {}


@pytest.mark.parametrize("route", ["ieee", "onednn"])
def test_a_training_multiplies_by_the_route_that_was_proved(
    route: str, llama: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    products: Any = torch.backends.mkldnn.matmul
    seen, before = [], products.fp32_precision

    class Watcher(module.StopCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            seen.append(products.fp32_precision)

    monkeypatch.setattr(module, "faster_body_route", lambda *_given: route)
    monkeypatch.setattr(module, "StopCallback", Watcher)
    trained(llama, corpus, replace(QUICK, steps=2), tmp_path / "run")
    assert seen == ["bf16" if route == "onednn" else before] * 2
    assert products.fp32_precision == before


def test_a_training_in_bfloat16_is_watched_in_bfloat16_from_its_start(
    llama: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    recipe = replace(QUICK, steps=2, learning_rate=1e-30, weight_decay=0.0, bf16=True)
    log = trained(llama, corpus, recipe, tmp_path / "run").note["log"]
    start, end = (line["watched"] for line in log if "watched" in line)
    assert (start["step"], end["step"]) == (0, 2)
    assert {**end, "step": 0} == start


def test_gradients_by_the_proved_route_are_as_exact_as_by_the_plain_one() -> None:
    config = tf.LlamaConfig(
        vocab_size=300, hidden_size=256, intermediate_size=512, num_hidden_layers=2,
        num_attention_heads=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = tf.LlamaForCausalLM(config)
    ids = torch.randint(0, 300, (4, 32))

    def gradients(model: Any, route: Route) -> torch.Tensor:
        model.zero_grad()
        with float32_products(route):
            model(input_ids=ids, labels=ids).loss.backward()
        return torch.cat([p.grad.flatten().double() for p in model.parameters()])

    plain = gradients(model, "ieee")
    faster = gradients(model, module._route(HeadHook.of(model)))
    exact = gradients(copy.deepcopy(model).double(), "ieee")
    assert (faster - exact).norm() <= 4 * (plain - exact).norm()
    assert (plain - exact).norm() <= 1e-5 * exact.norm()


def test_a_refinement_says_that_it_stopped(
    llama: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    recipe = replace(QUICK, ce_weight=0.0, learning_rate=3e-2, budget=Budget(nll=0.0))
    done = refine(llama, corpus, recipe, out=tmp_path / "run")
    assert done.summary.stopped is not None
    assert f"at step {done.summary.steps} held-out loss rose by" in " ".join(str(done).split())
    assert done.summary.steps < recipe.steps
    start = {n: p.detach() for n, p in llama.model.named_parameters()}
    if done.summary.watched[-1].step == recipe.watch_every:
        assert same_weights(saved(tmp_path / "run"), start)
    assert Refinement.load(tmp_path / "run").summary == done.summary


def test_what_is_watched_is_what_an_audit_would_say(llama: Checkpoint, corpus: Corpus) -> None:
    windows = Windows.of(corpus, 15, max_positions=90)
    watched = list(batches(windows, range(len(windows.length)), BatchPlan(64)))
    counted = torch.zeros(300, dtype=torch.bool)
    counted[::2] = True
    model = copy.deepcopy(llama.model)
    check = HeldoutCheck.of(HeadHook.of(model), watched, counted, Budget())
    start = check.at_start()
    assert start == check.compare(model, 0)
    assert (start.step, start.churn, start.right_to_wrong, start.stable_candidates) == (0, 0, 0, 1)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    seen = check.compare(model, 7)
    rows: list[tuple[Any, ...]] = []
    for i in range(len(windows.length)):
        begin, length = int(windows.start[i]), int(windows.length[i])
        ids = torch.tensor(corpus.ids[begin : begin + length + 1].astype(np.int64))
        with torch.no_grad():
            both = [one(input_ids=ids[None, :-1]).logits[0] for one in (llama.model, model)]
        for was, now, target in zip(*both, ids[1:].tolist(), strict=True):
            tops = [side.topk(5).indices.tolist() for side in (was, now)]
            rows.append((tops, target, now, counted[target]))
    n = len(rows)
    assert seen.n == n == 90
    nll = [float(now.logsumexp(0) - now[target]) for _, target, now, _ in rows]
    assert seen.nll == pytest.approx(np.mean(nll), rel=1e-5)
    assert seen.accuracy == sum(t[1][0] == y for t, y, _, _ in rows) / n
    assert seen.churn == sum(t[0][0] != t[1][0] for t, _, _, _ in rows) / n
    stable = sum(len(set(t[0]) & set(t[1])) for t, _, _, _ in rows) / (5 * n)
    assert seen.stable_candidates == pytest.approx(stable)
    lost = [t[0][0] == y != t[1][0] for t, y, _, kept in rows if kept]
    assert seen.right_to_wrong == pytest.approx(sum(lost) / len(lost))
    assert 0 < seen.right_to_wrong < 1
    assert stable < 1
    margins = [float(now.topk(2).values[0] - now.topk(2).values[1]) for _, _, now, _ in rows]
    assert seen.median_margin == pytest.approx(np.median(margins), rel=1e-4)
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(UnembedError, match="not finite after step 8"):
        check.compare(model, 8)


def test_what_is_watched_shares_no_batch_where_padding_would_change_it(
    tokenizer: Any, tmp_path: Path
) -> None:
    words = " ".join(TEXTS).split()
    text = Corpus.from_texts([*TEXTS[:6], " ".join(words[:40])], tokenizer)
    model = longrope_model().train()
    checkpoint, recipe = (
        Checkpoint("longrope", model, tokenizer),
        replace(QUICK, watch_positions=9999),
    )
    job = module._TrainingJob(checkpoint, text, text, recipe, tmp_path, False)
    hook = HeadHook.of(model, token_ids(tokenizer))
    watched = job._check(hook, 63, Vocabulary.of(tokenizer, range(480)))
    assert all(part.training for part in model.modules())
    windows = Windows.of(text, 63, max_positions=9999)
    assert windows.length.min() < 16 < windows.length.max()
    losses: list[float] = []
    for i in range(len(windows.length)):
        ids = windows.inputs(i)[None]
        begin, length = int(windows.start[i]), int(windows.length[i])
        targets = torch.tensor(text.ids[begin + 1 : begin + length + 1].astype(np.int64))
        with torch.no_grad():
            logits = model.eval()(input_ids=ids).logits[0, :, : len(tokenizer)]
        losses += torch.nn.functional.cross_entropy(logits, targets, reduction="none").tolist()
    assert sorted(watched.start["nll"]) == pytest.approx(sorted(losses), abs=1e-4)


def test_the_share_of_clipped_steps_is_told(
    llama: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    norms = None
    for clip, share in ((1e3, 0.0), (1e-3, 1.0), (None, 0.5), (0.0, None)):
        if clip is None:
            assert norms is not None
            clip = float(np.median(norms[:4]))
        recipe = replace(QUICK, steps=4, learning_rate=1e-9, clip=clip)
        note = trained(llama, corpus, recipe, tmp_path / str(share)).note
        norms = [line["grad_norm"] for line in note["log"] if "loss" in line]
        side = object.__new__(ComparisonSummary)
        told = summarise_refinement(recipe, note, side, side)
        assert told.clipped == share
        assert told.gradient_ratio is not None
        assert told.gradient_ratio > 0


def distance(kind: str, start: Any, after: Any, text: Corpus) -> float:
    """How far the anchored quantity moved, by all logits."""
    if kind == "ewc":
        pairs = zip(start.parameters(), after.parameters(), strict=True)
        return float(sum(((a - b) ** 2).sum() for a, b in pairs).detach())
    found = []
    for one in (start, after):
        rows = []
        for begin, end in zip(text.starts[:-1], text.starts[1:], strict=True):
            ids = torch.tensor(text.ids[begin:end].astype(np.int64))[None]
            with torch.no_grad():
                rows.append(one(input_ids=ids[:, :-1]).logits[0].double())
        found.append(torch.cat(rows))
    if kind == "kl":
        p, q = (logits.log_softmax(1) for logits in found)
        return float((p.exp() * (p - q)).sum(1).mean())
    margins = [(t[:, 0] - t[:, 1]).mean() for t in (logits.topk(2).values for logits in found)]
    sums = [logits.logsumexp(1).mean() for logits in found]
    return float((margins[0] - margins[1]) ** 2 + (sums[0] - sums[1]) ** 2)


def test_every_anchor_holds_what_it_anchors(
    llama: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    recipe = replace(QUICK, objective=Objective("entropy"), weight=2.0, steps=12, watch_every=12)
    text = split_text(llama, corpus, recipe)[0]
    free = trained(llama, corpus, recipe, tmp_path / "free").checkpoint.model
    anchors = {
        "ewc": Protection(ewc=1e4),
        "margin": Protection(margin=10.0),
        "kl": Protection(kl=10.0),
    }
    for kind, protection in anchors.items():
        held = trained(llama, corpus, replace(recipe, protection=protection), tmp_path / kind)
        far, near = (
            distance(kind, llama.model, one, text) for one in (free, held.checkpoint.model)
        )
        assert near < 0.5 * far, kind


if __name__ == "__main__":
    for folder, step in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        child = os.fork()
        if not child:
            in_process(Path(folder), int(step))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
