"""How to refine a model: the objective, its weight, what moves, for how long, within what cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from unembed.errors import UnembedError
from unembed.runs.record import record_to_json
from unembed.short_repr import ShortRepr
from unembed.training.recipe.lora import Lora
from unembed.training.recipe.names import SAVE_DTYPES
from unembed.training.recipe.objectives import Objective, refuse_weights
from unembed.training.recipe.protection import Protection
from unembed.training.recipe.schedule import Schedule
from unembed.training.recipe.scope import LAST_BLOCKS, check_scope
from unembed.training.recipe.weighting import Weighting, refuse_unknown_classes

MIN_CONTEXT = 3
"""Tokens a training window; the last of them is predicted alone."""


@dataclass(frozen=True)
class Budget(ShortRepr):
    """What a refinement may cost on the held-out positions that are watched.

    ``nll`` bounds the rise of the loss as a share of the starting model's (0.02 is 2 %);
    ``right_to_wrong`` the share of watched positions that were right and no longer are, counted at
    targets of ``classes`` alone where some are named. None is no bound.
    """

    nll: float | None = None
    right_to_wrong: float | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("nll", "right_to_wrong"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UnembedError(f"the budget of {name} is {value}: give a share from 0 up")
        refuse_unknown_classes(self.classes)
        if self.classes and self.right_to_wrong is None:
            raise UnembedError(
                f"a budget for classes {', '.join(self.classes)} needs a bound on right_to_wrong"
            )

    @property
    def bounded(self) -> bool:
        """Whether anything is bounded, so that a run may have to go back."""
        return self.nll is not None or self.right_to_wrong is not None


@dataclass(frozen=True)
class Recipe(ShortRepr):
    """Everything that decides a refinement but the model and the text (theory §5).

    ``weight`` is lambda; with ``gradient_share`` it is 0 here, and chosen anew at each step as by
    ``mean_loss``. ``schedule`` says when in the training the penalty counts. A step takes
    ``batch_size * accumulation`` windows of ``context`` tokens; AdamW warms up linearly over a
    share ``warmup`` of the ``steps`` and decays linearly to 0. ``heldout`` is the share of
    documents that is never trained on. Every ``watch_every`` steps ``watch_positions`` of them are
    measured, the budget is checked and a checkpoint is written. ``audit_positions`` bounds the
    audits before and after, on either part of the text. ``row_bound`` holds every weight of the
    linear layers but the head within so many root mean squares of its row at the start, which an
    int8 rounding then moves less. Weights are trained in float32; ``bf16`` computes the body in
    bfloat16. ``save_dtype`` is that of the saved model, None for the starting
    model's: a coarse one rounds small changes away.
    """

    objective: Objective = field(default_factory=lambda: Objective("fisher"))
    weight: float = 0.6
    ce_weight: float = 1.0
    scope: str = "full"
    untie: bool = False
    lora: Lora | None = None
    weighting: Weighting = field(default_factory=Weighting)
    protection: Protection = field(default_factory=Protection)
    budget: Budget = field(default_factory=Budget)
    steps: int = 200
    learning_rate: float = 1e-5
    weight_decay: float = 0.01
    warmup: float = 0.05
    clip: float = 1.0
    batch_size: int = 8
    accumulation: int = 1
    context: int | None = None
    seed: int = 0
    heldout: float = 0.2
    watch_every: int = 50
    watch_positions: int = 4096
    audit_positions: int = 100_000
    bf16: bool = False
    save_dtype: str | None = None
    gradient_checkpointing: bool = False
    gradient_share: float | None = None
    schedule: Schedule = field(default_factory=Schedule)
    row_bound: float | None = None

    def __post_init__(self) -> None:
        if self.gradient_share is not None and self.weight == Recipe.weight:
            object.__setattr__(self, "weight", 0.0)  # It was left out.
        for name in ("weight", "ce_weight", "weight_decay", "clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UnembedError(f"{name} is {getattr(self, name)}: give a number from 0 up")
        refuse_weights(self.weight, self.ce_weight, self.gradient_share)
        whole = ("steps", "batch_size", "accumulation", "watch_every", "watch_positions")
        for name in (*whole, "audit_positions"):
            if getattr(self, name) < 1:
                raise UnembedError(f"{name} is {getattr(self, name)}: give at least 1")
        if self.context is not None and self.context < MIN_CONTEXT:
            raise UnembedError(
                f"context is {self.context}: give at least {MIN_CONTEXT}, of which the last token "
                "is only predicted"
            )
        if not 0 < self.learning_rate < math.inf:
            raise UnembedError(f"learning_rate is {self.learning_rate}: give a number above 0")
        for name in ("warmup", "heldout"):
            if not 0 <= getattr(self, name) < 1:
                raise UnembedError(f"{name} is {getattr(self, name)}: give a share below 1")
        if self.heldout == 0:
            raise UnembedError(
                "heldout is 0: without held-out documents nothing tells gain from memory; "
                "give a share such as 0.2"
            )
        if self.save_dtype not in (None, *SAVE_DTYPES):
            raise UnembedError(
                f"save_dtype {self.save_dtype!r} is none of {', '.join(SAVE_DTYPES)}: give one of "
                "these"
            )
        if self.row_bound is not None:
            self._check_row_bound(self.row_bound)
        check_scope(self.scope, untie=self.untie, lora=self.lora)

    def _check_row_bound(self, times: float) -> None:
        if not 1 < times < math.inf:
            raise UnembedError(
                f"row_bound {times} is no bound of a row's weights: give how many root mean "
                "squares of the row, a number above 1 such as 2.5"
            )
        if self.scope != "full" and LAST_BLOCKS.fullmatch(self.scope) is None:
            raise UnembedError(
                f"row_bound {times:g} bounds weights that scope {self.scope!r} does not move: "
                "leave it out, or take scope full or last-N-blocks"
            )

    @property
    def has_penalty(self) -> bool:
        """Whether anything but cross-entropy and what holds the model is minimised."""
        return self.objective.name != "none" and max(self.weight, self.gradient_share or 0.0) > 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest; what earlier versions lack is there where it is given."""
        plain: dict[str, Any] = record_to_json(self)
        if self.gradient_share is None:
            del plain["gradient_share"]
        if self.schedule == Schedule():
            del plain["schedule"]
        if self.row_bound is None:
            del plain["row_bound"]
        return plain


def control_of(recipe: Recipe) -> Recipe:
    """The same training without its penalty: what a refinement is held against.

    Equivalent to::

        replace(recipe, objective=Objective("none"), weight=0.0, gradient_share=None,
                schedule=Schedule())

    Raises UnembedError where the recipe has no penalty to take away.
    """
    if not recipe.has_penalty:
        given = "objective none"
        if recipe.objective.name != "none":
            given = "weight 0" if recipe.gradient_share is None else "gradient share 0"
        raise UnembedError(
            f"{given} is the control itself, and there is no penalty to hold against it: leave out "
            "--control, or give an --objective and a --weight above 0"
        )
    return replace(
        recipe,
        objective=Objective("none"),
        weight=0.0,
        gradient_share=None,
        schedule=Schedule(),
    )


def steps_of(recipe: Recipe) -> Mapping[str, Any]:
    """The recipe as the Trainer's arguments name it."""
    return {
        "max_steps": recipe.steps,
        "per_device_train_batch_size": recipe.batch_size,
        "gradient_accumulation_steps": recipe.accumulation,
        "learning_rate": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "warmup_steps": math.ceil(recipe.warmup * recipe.steps),
        "lr_scheduler_type": "linear",
        "max_grad_norm": recipe.clip,
        "seed": recipe.seed,
        "bf16": recipe.bf16,
        "save_steps": recipe.watch_every,
    }
