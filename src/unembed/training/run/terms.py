"""From a recipe to what the Trainer minimises: weights, anchors and the Fisher of the start."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unembed.head.head import Head
from unembed.head.loss import head_loss
from unembed.text.vocabulary import Vocabulary
from unembed.training.recipe.protection import Ewc, KlAnchor, MarginAnchor
from unembed.training.recipe.recipe import Recipe
from unembed.training.recipe.weighting import Weighting
from unembed.training.run.examples import Examples
from unembed.training.run.head_hook import HeadHook, Targets
from unembed.training.run.penalty_term import PenaltyTerm

EWC_SEQUENCES = 64
"""Training windows, evenly spread, whose gradients make the diagonal Fisher."""


def term_of(
    recipe: Recipe, hook: HeadHook, start: nn.Module, examples: Examples, vocabulary: Vocabulary
) -> PenaltyTerm:
    """What ``recipe`` minimises on these examples; ``start`` is the frozen starting model."""
    table = None
    if recipe.weighting != Weighting():
        counts = examples.target_counts(hook.head.vocab)
        table = recipe.weighting.table(counts, vocabulary)
    held, vocab = recipe.protection, hook.head.vocab
    return PenaltyTerm(
        recipe.objective,
        recipe.weight,
        ce_weight=recipe.ce_weight,
        weighting=table,
        ewc=(held.ewc, Ewc.of(hook.model, window_losses(hook, examples))) if held.ewc else None,
        margin=MarginAnchor(held.margin) if held.margin else None,
        kl=KlAnchor.of(held.kl, held.classes, vocabulary, vocab) if held.kl else None,
        reference=_evaluating(start) if held.needs_reference else None,
        gradient_share=recipe.gradient_share,
        schedule=recipe.schedule,
    )


def _evaluating(model: nn.Module) -> nn.Module:
    """The model where it is in evaluation mode, else a copy that is."""
    return copy.deepcopy(model).eval() if model.training else model


def window_losses(hook: HeadHook, examples: Examples) -> Iterator[Float[Tensor, ""]]:
    """The mean NLL of single windows, with its graph."""
    hook.model.eval()
    every = max(1, len(examples) // EWC_SEQUENCES)
    for i in range(0, len(examples), every)[:EWC_SEQUENCES]:
        batch = examples.collated([examples[i]])
        device = next(hook.model.parameters()).device
        targets = Targets.of(batch["labels"].to(device))

        with torch.enable_grad():
            inputs = {"input_ids": batch["input_ids"].to(device)}
            yield hook.at_head(hook.model, inputs, partial(_mean_nll, targets))


def _mean_nll(
    targets: Targets, hidden: Float[Tensor, "batch seq dim"], head: Head
) -> Float[Tensor, ""]:
    return head_loss(hidden[targets.kept], head, targets.ids).nll.mean()
