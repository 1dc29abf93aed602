"""Room on disk for a training: what is asked for is what it takes, before the first step."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers as tf

from made_up.models import small_model
from unembed.errors import WriteError
from unembed.models.checkpoint import Checkpoint
from unembed.runs import files
from unembed.text.corpus import Corpus
from unembed.training.recipe.recipe import Recipe
from unembed.training.run import checkpoints
from unembed.training.run import train as module
from unembed.training.run.checkpoint_seal import seal

QUICK = Recipe(steps=9, watch_every=2, batch_size=2, learning_rate=1e-3, context=16)
USAGE = namedtuple("usage", ("total", "used", "free"))


@pytest.fixture
def given(small_tokenizer: Any) -> tuple[Checkpoint, Corpus, Corpus]:
    texts = [f"{who} sat on the {what}." for who in ("a cat", "the dog") for what in ("mat", "sea")]
    corpus = Corpus.from_texts(texts, small_tokenizer)
    return Checkpoint("small", small_model("llama"), small_tokenizer), corpus, corpus


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("how", "at_least"),
    [
        ({}, 0.9),
        ({"steps": 4}, 0.9),
        ({"steps": 2, "save_dtype": "bfloat16"}, 0.75),
        ({"scope": "head", "save_dtype": "float16"}, 0.85),
        ({"scope": "lora"}, 0.7),
    ],
)
def test_a_training_asks_for_the_room_that_it_takes(
    how: dict[str, Any],
    at_least: float,
    given: tuple[Checkpoint, Corpus, Corpus],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside the weights lie a tokenizer, settings and logs, of some kilobytes."""
    out, asked, taken = tmp_path / "run", [], []
    state, model = tf.TrainerState.save_to_json, module.save_model

    def noted(self: tf.TrainerState, path: str) -> None:
        state(self, path)  # before the oldest checkpoint goes
        taken.append(size_of(out))

    def saved(*of: Any) -> None:
        model(*of)
        taken.append(size_of(out))

    monkeypatch.setattr(tf.TrainerState, "save_to_json", noted)
    monkeypatch.setattr(module, "save_model", saved)
    monkeypatch.setattr(checkpoints, "check_room", lambda _f, needed, _w: asked.append(needed))
    module.train(*given, replace(QUICK, **how), out)
    [needed] = asked
    assert at_least * max(taken) < needed <= max(taken)


def test_a_training_without_room_is_refused_before_its_first_step(
    given: tuple[Checkpoint, Corpus, Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, room = tmp_path / "run", [0]
    entries = sum(parameter.numel() for parameter in given[0].model.parameters())
    needed = 3 * 3 * 4 * entries  # three checkpoints of weights and two moments in float32
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _place: USAGE(1 << 40, 0, room[0]))

    class Begun(Exception):
        pass

    class Halt(module.StopCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == halted_at:
                raise Begun

    monkeypatch.setattr(module, "StopCallback", Halt)
    halted_at, room[0] = 0, needed - 1
    words = (
        f"the checkpoints and the model of this training take at least {needed / 2**20:,.1f} MiB"
    )
    with pytest.raises(WriteError, match=words) as caught:
        module.train(*given, QUICK, out)
    assert "\n" not in str(caught.value)
    assert not (out / "checkpoints").exists()

    halted_at, room[0] = 5, needed
    with pytest.raises(Begun):
        module.train(*given, QUICK, out)
    room[0] = needed - size_of(out / "checkpoints")  # what is there needs no room again
    with pytest.raises(Begun):
        module.train(*given, QUICK, out)
    room[0] -= 1
    with pytest.raises(WriteError, match="make room"):
        module.train(*given, QUICK, out)


def sealed(folder: Path) -> None:
    for name in ("model.safetensors", "optimizer.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(folder.name.encode())
    seal(folder)


def test_a_training_goes_on_from_its_newest_whole_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps are numbers: 10 is after 8. What is not whole goes, with a line for each."""
    for step in (8, 10, 12):
        sealed(tmp_path / f"checkpoint-{step}")
    resumed: list[str | None] = []

    class Resumed(module.RefineTrainer):
        def __init__(self) -> None: ...

        def train(self, resume_from_checkpoint: Any = None, **_more: Any) -> Any:
            resumed.append(resume_from_checkpoint)

    trainer = Resumed()
    checkpoints.train_on(trainer, tmp_path)
    assert resumed == [str(tmp_path / "checkpoint-12")]
    assert capsys.readouterr().err == ""
    (tmp_path / "checkpoint-12" / "whole.json").unlink()
    (tmp_path / "checkpoint-10" / "optimizer.pt").unlink()
    checkpoints.train_on(trainer, tmp_path)
    assert resumed[-1] == str(tmp_path / "checkpoint-8")
    assert capsys.readouterr().err.splitlines() == [
        "checkpoint of step 12 was not written to its end: going on from step 10",
        "checkpoint of step 10 is damaged (optimizer.pt cannot be read): going on from step 8",
    ]
    (tmp_path / "checkpoint-8" / "model.safetensors").write_bytes(b"checkpoint-9")
    checkpoints.train_on(trainer, tmp_path)
    assert resumed[-1] is None
    said = (
        "checkpoint of step 8 is damaged (model.safetensors has changed): going on from the start"
    )
    assert capsys.readouterr().err.splitlines() == [said]
    assert not list(tmp_path.iterdir())
