from .benchmarks.pair import Benchmarks as Benchmarks
from .recipe.lora import Lora as Lora
from .recipe.objectives import Objective as Objective
from .recipe.objectives import mean_loss as mean_loss
from .recipe.protection import Protection as Protection
from .recipe.recipe import Budget as Budget
from .recipe.schedule import Schedule as Schedule
from .recipe.scope import apply_scope as apply_scope
from .recipe.scope import plain_model as plain_model
from .recipe.weighting import Positions as Positions
from .recipe.weighting import Weighting as Weighting
from .run.examples import Examples as Examples
from .run.head_hook import HeadHook as HeadHook
from .run.penalty_term import PenaltyTerm as PenaltyTerm
from .run.trainer import RefineMixin as RefineMixin

__all__ = [
    # What a recipe is made of
    "Benchmarks",
    "Budget",
    "Lora",
    "Objective",
    "Positions",
    "Protection",
    "Schedule",
    "Weighting",
    # In a Trainer of your own
    "Examples",
    "PenaltyTerm",
    "RefineMixin",
    # In a loop of your own
    "HeadHook",
    "apply_scope",
    "mean_loss",
    "plain_model",
]
