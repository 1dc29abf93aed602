"""Refine with a Trainer, or a loop, of your own, or train from random weights with a penalty.

    pip install "unembed[train]"
    python examples/own_trainer.py MODEL TEXT.txt        # a folder or a hub name; a line is a row

All take 20 steps and print their losses; the Trainer leaves its checkpoint in ``refined``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from unembed import Checkpoint, head_loss, load
from unembed.head import final_hidden
from unembed.models import token_ids
from unembed.training import (
    HeadHook,
    Objective,
    PenaltyTerm,
    RefineMixin,
    Schedule,
    mean_loss,
)


class MyTrainer(RefineMixin, Trainer):
    """Yours, with all that it overrides."""


def with_a_trainer(checkpoint: Checkpoint, texts: list[str], **arguments: Any) -> MyTrainer:
    """Any arguments, data set and collator will do that give ``input_ids`` and ``labels``."""
    tokenizer = checkpoint.tokenizer
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.convert_ids_to_tokens(0)
    trainer = MyTrainer(
        model=checkpoint.model,
        args=TrainingArguments(**arguments),
        train_dataset=[{"input_ids": tokenizer(text)["input_ids"]} for text in texts],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    trainer.refine_with(PenaltyTerm(Objective("fisher"), 0.6), token_ids=token_ids(tokenizer))
    trainer.train()
    return trainer


def with_a_loop(checkpoint: Checkpoint, texts: list[str], steps: int = 20) -> list[float]:
    """Plain PyTorch, a text a step: hidden states up to the head, and the loss from there."""
    model, objective = checkpoint.model.train(), Objective("fisher")
    hook = HeadHook.of(model, token_ids(checkpoint.tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    losses = []
    for step in range(steps):
        ids = torch.tensor([checkpoint.tokenizer(texts[step % len(texts)])["input_ids"]])
        hidden = final_hidden(model, ids.to(hook.head.weight.device))[0, :-1]
        targets = ids[0, 1:].to(hidden.device)
        found = head_loss(hidden, hook.current_head(model), targets, k=5, cosines=True)
        loss = mean_loss(found, objective, weight=0.6)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.cross_entropy))
    return losses


def from_random_weights(
    checkpoint: Checkpoint,
    texts: list[str],
    steps: int = 20,
    share: float = 0.1,
    schedule: Schedule = Schedule(after=0.5, ramp=0.1),  # noqa: B008
) -> tuple[torch.nn.Module, list[tuple[float, float]]]:
    """A pre-training of the checkpoint's shape: from half-way on a penalty, by its gradient."""
    model = type(checkpoint.model)(checkpoint.model.config).train()
    hook = HeadHook.of(model, token_ids(checkpoint.tokenizer))
    objective, losses = Objective("fisher"), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        ids = torch.tensor([checkpoint.tokenizer(texts[step % len(texts)])["input_ids"]])
        hidden = final_hidden(model, ids)[0, :-1]
        found = head_loss(hidden, hook.current_head(model), ids[0, 1:], k=5, cosines=True)
        now = share * schedule.factor(step, steps)
        loss = mean_loss(found, objective, gradient_share=now, at=hidden)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append((float(loss.cross_entropy), loss.weight))
    return model, losses


def main() -> None:
    """All three, on the model and the text of the command line."""
    name, file = sys.argv[1:]
    texts = [line for line in Path(file).read_text().splitlines() if line.strip()]
    with_a_trainer(
        load(name), texts, output_dir="refined", max_steps=20, learning_rate=1e-5, save_steps=20
    )
    print("the plain loop:", *(f"{loss:.3f}" for loss in with_a_loop(load(name), texts)))
    _, losses = from_random_weights(load(name, device="cpu"), texts)
    for step, (loss, weight) in enumerate(losses):
        print(f"from random weights, step {step}: {loss:.3f}, λ {weight:.3g}")


if __name__ == "__main__":
    main()
