"""The parts of transformers that run a training, imported without what they say on the way."""

from importlib.util import find_spec

from unembed.errors import UnembedError
from unembed.models.checkpoint import hushed

with hushed():
    from transformers import (
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

__all__ = [
    "PrinterCallback",
    "Trainer",
    "TrainerCallback",
    "TrainerControl",
    "TrainerState",
    "TrainingArguments",
    "accelerate_is_there",
    "check_accelerate",
]


def accelerate_is_there() -> bool:
    """Whether the library that the Trainer runs on is installed."""
    return find_spec("accelerate") is not None


def check_accelerate() -> None:
    """Raise UnembedError without it."""
    if not accelerate_is_there():
        raise UnembedError("a refinement needs accelerate: pip install 'unembed[train]'")
