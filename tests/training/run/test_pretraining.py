"""A penalty in a training from random weights: its schedule, its share of the loss's gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

import reference.objectives
from made_up.models import small_model
from unembed.models.checkpoint import quietly
from unembed.text.corpus import Corpus
from unembed.training.recipe.objectives import Objective
from unembed.training.recipe.protection import MarginAnchor
from unembed.training.recipe.schedule import Schedule
from unembed.training.recipe.scope import apply_scope
from unembed.training.run import trainer as module
from unembed.training.run.engine import Trainer, TrainingArguments
from unembed.training.run.examples import Examples
from unembed.training.run.head_hook import HeadHook, Targets
from unembed.training.run.penalty_term import PenaltyTerm
from unembed.training.run.trainer import RefineMixin

SENTENCES = [
    "the first of them is a short one",
    "a second, which goes on for rather longer than the first one did, and then some more",
    "numbers such as 12 and 345 come third",
    "fourth of all, and last but one",
    "what is left of the text is here, in a fifth one that is as long as the second or longer",
    "six",
]
HOW: dict[str, Any] = {
    "max_steps": 6,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "use_cpu": True,
}
SHARED = PenaltyTerm(Objective("fisher"), gradient_share=0.5)


class OwnTrainer(RefineMixin, Trainer):
    """A user's own."""


@pytest.fixture(scope="module")
def examples(small_tokenizer: Any) -> Examples:
    return Examples.of(Corpus.from_texts(SENTENCES * 3, small_tokenizer), 24)


class Kept(TrainerCallback):
    """The weights after every step."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.after: list[list[Tensor]] = []

    def on_step_end(self, *_args: Any, **_given: Any) -> None:
        self.after.append([p.detach().clone() for p in self.model.parameters()])


def ran(
    examples: Examples,
    term: PenaltyTerm | None,
    folder: Path,
    *,
    name: str = "llama",
    resume: str | None = None,
    begin: Callable[[nn.Module], object] = lambda _: None,
    **how: Any,
) -> tuple[list[list[Tensor]], list[dict[str, float]], list[dict[str, Tensor]]]:
    """The weights after each step of a training from random weights, its log, and its batches."""
    model, seen = small_model(name), []
    begin(model)

    def collated(rows: Any) -> dict[str, Tensor]:
        seen.append(examples.collated(rows))
        return seen[-1]

    kept = Kept(model)
    with quietly():
        trainer: Any = (Trainer if term is None else OwnTrainer)(
            model=model,
            args=TrainingArguments(output_dir=str(folder), **{**HOW, **how}),
            train_dataset=examples,
            data_collator=collated,
            callbacks=[kept],
        )
        if term is not None:
            trainer.refine_with(term)
        trainer.train(resume_from_checkpoint=resume)
    return kept.after, [line for line in trainer.state.log_history if "loss" in line], seen


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def logged(lines: list[dict[str, float]], *names: str) -> list[list[float]]:
    return [[line[name] for name in names] for line in lines]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("llama", {"gradient_accumulation_steps": 2}),
        ("gpt2", {}),  # drops out
        ("gemma2", {"bf16": True}),
        ("llama", {"max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 6}),
    ],
)
def test_until_its_schedule_begins_a_run_is_the_plain_trainers(
    name: str,
    how: dict[str, Any],
    examples: Examples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the bit, with no pass at the head; a step number of the Trainer's says when."""
    calls: list[int] = []
    plain = module.head_loss
    monkeypatch.setattr(module, "head_loss", lambda *a, **k: (calls.append(1), plain(*a, **k))[1])
    expected, lines, _ = ran(examples, None, tmp_path, name=name, **how)
    assert len(expected) == 6
    for term in (SHARED, PenaltyTerm(Objective("margin"), 2.0)):
        late = replace(term, schedule=Schedule(after=0.5))
        found, ours, _ = ran(examples, late, tmp_path, name=name, **how)
        for step in range(3):
            assert same(found[step], expected[step])
            assert ours[step]["loss"] == lines[step]["loss"]
            assert ours[step]["grad_norm"] == lines[step]["grad_norm"]
        assert not same(found[3], expected[3])
        weights = [line["penalty_weight"] for line in ours]
        assert weights[:3] == [0.0] * 3
        assert min(weights[3:]) > 0
        assert all("cross_entropy" not in line for line in ours[:3])
    never = replace(SHARED, schedule=Schedule(after=0.99))
    calls.clear()
    found, _, _ = ran(examples, never, tmp_path, name=name, **how)
    assert not calls
    assert all(map(same, found, expected))


@pytest.mark.parametrize(
    "term",
    [
        PenaltyTerm(Objective("fisher"), 0.0, schedule=Schedule(after=0.3, ramp=0.5)),
        PenaltyTerm(Objective("margin"), gradient_share=0.0, schedule=Schedule(ramp=1.0)),
        PenaltyTerm(Objective("none"), gradient_share=0.5, schedule=Schedule(after=0.5)),
    ],
)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_without_weight_a_schedule_changes_no_bit(
    term: PenaltyTerm, name: str, examples: Examples, tmp_path: Path
) -> None:
    expected, lines, _ = ran(examples, None, tmp_path, name=name)
    found, ours, _ = ran(examples, term, tmp_path, name=name)
    assert len(found) == 6
    assert all(map(same, found, expected))
    keys = ("loss", "grad_norm", "learning_rate")
    assert logged(ours, *keys) == logged(lines, *keys)
    assert all(line.keys() == other.keys() for line, other in zip(ours, lines, strict=True))


@pytest.mark.parametrize("scope", ["full", "head"])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("name", ["fisher", "margin"])
def test_a_step_has_the_weight_of_its_two_gradients(
    name: str, accumulation: int, scope: str, examples: Examples, tmp_path: Path
) -> None:
    """Of all batches of the step together; what moves is the gradient at that plain weight."""
    term = PenaltyTerm(Objective(name), gradient_share=0.5, schedule=Schedule(ramp=0.75))
    one_step = {
        "optim": "sgd",
        "learning_rate": 1.0,
        "warmup_steps": 0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "gradient_accumulation_steps": accumulation,
        "begin": lambda model: apply_scope(model, scope),
        "max_steps": 2,
    }
    found, lines, seen = ran(examples, term, tmp_path, **one_step)
    assert lines[0]["penalty_weight"] == 0.0
    assert lines[1]["gradient_ratio"] == pytest.approx(0.5 / 1.5, rel=1e-5)
    # What the second step read: the hidden states at the weights after the first.
    model: Any = small_model("llama")
    apply_scope(model, scope)
    with torch.no_grad():
        for p, now in zip(model.parameters(), found[0], strict=True):
            p.copy_(now)
    hook, rows, ids = HeadHook.of(model), [], []
    for batch in seen[accumulation : 2 * accumulation]:
        targets = Targets.of(batch["labels"])
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        read = hook.at_head(model, inputs, lambda h, _, kept=targets.kept: h[kept].detach())
        rows.append(read)
        ids.append(targets.ids)
    want, by_entropy, by_penalty = reference.objectives.share_weight(
        0.5 / 1.5, torch.cat(rows), model.lm_head.weight, torch.cat(ids), name
    )
    assert lines[1]["penalty_weight"] == pytest.approx(want, rel=1e-4)
    assert want * by_penalty == pytest.approx(by_entropy / 3)
    late = replace(term, gradient_share=None, weight=1.5 * want)
    again, _, _ = ran(examples, late, tmp_path, **one_step)
    assert same(again[0], found[0])
    went = max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))
    off = max(float((a - b).abs().max()) for a, b in zip(found[1], again[1], strict=True))
    assert off < 1e-4 * went


@pytest.mark.parametrize("stop", [2, 4])
def test_a_run_that_is_resumed_has_the_factors_it_would_have_had(
    stop: int, examples: Examples, tmp_path: Path
) -> None:
    """Before the schedule begins and within its ramp, to the bit: nothing is kept between steps."""
    term = replace(SHARED, schedule=Schedule(after=0.5, ramp=0.5))
    how = {"save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2}
    whole, lines, _ = ran(examples, term, tmp_path, **how)
    saved = str(tmp_path / f"checkpoint-{stop}")
    rest, after, _ = ran(examples, term, tmp_path / "rest", resume=saved, **how)
    assert len(rest) == 6 - stop
    assert all(map(same, rest, whole[stop:]))
    assert logged(after[stop:], "penalty_weight") == logged(lines[stop:], "penalty_weight")
    weights = [line["penalty_weight"] for line in lines]
    assert weights[:4] == [0.0] * 4
    assert weights[4] > 0


def test_a_body_in_bfloat16_reaches_the_share(examples: Examples, tmp_path: Path) -> None:
    _, lines, _ = ran(examples, SHARED, tmp_path, bf16=True)
    _, exact, _ = ran(examples, SHARED, tmp_path)
    for line, other in zip(lines, exact, strict=True):
        assert line["gradient_ratio"] == pytest.approx(0.5, rel=1e-6)
        assert line["penalty_weight"] == pytest.approx(other["penalty_weight"], rel=0.05)


def test_what_holds_the_model_counts_before_the_penalty_does(
    examples: Examples, tmp_path: Path
) -> None:
    term = PenaltyTerm(
        Objective("fisher"),
        gradient_share=0.5,
        schedule=Schedule(after=0.5),
        margin=MarginAnchor(3.0),
        reference=small_model("llama").eval(),
    )
    how: dict[str, Any] = {"gradient_accumulation_steps": 2}
    plain, _, _ = ran(examples, None, tmp_path, **how)
    held, lines, _ = ran(examples, term, tmp_path, **how)
    assert not same(held[2], plain[2])
    assert logged(lines[:3], "penalty", "penalty_weight") == [[0.0, 0.0]] * 3
    assert lines[2]["loss"] > lines[2]["cross_entropy"]  # the first rate of the warm-up is 0
    assert all(min(line["penalty"], line["penalty_weight"]) > 0 for line in lines[3:])
