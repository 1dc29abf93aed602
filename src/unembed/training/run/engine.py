"""The parts of transformers that run a training, imported without what they say on the way."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

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

PACKAGES = {
    "azure_ml": "azureml-core",
    "comet_ml": "comet_ml",
    "flyte": "flytekit",
    "kubeflow": "kubeflow-training",
}
"""Of loggers, where that is not their name."""

__all__ = [
    "PrinterCallback",
    "Trainer",
    "TrainerCallback",
    "TrainerControl",
    "TrainerState",
    "TrainingArguments",
    "accelerate_is_there",
    "check_accelerate",
    "check_report_to",
]


def accelerate_is_there() -> bool:
    """Whether the library that the Trainer runs on is installed."""
    return find_spec("accelerate") is not None


def check_accelerate() -> None:
    """Raise UnembedError without it."""
    if not accelerate_is_there():
        raise UnembedError("a refinement needs accelerate: pip install 'unembed[train]'")


def check_report_to(names: Sequence[str]) -> None:
    """Raise UnembedError for a logger that transformers does not know, or whose package is missing.

    ``all`` and ``none`` are the Trainer's words for every one that is installed and for none.
    """
    if list(names) in ([], ["all"], ["none"]):
        return
    with hushed():
        from transformers.integrations import integration_utils

        loggers: Any = integration_utils
        known = list(loggers.INTEGRATION_TO_CALLBACK)
        installed = loggers.get_available_reporting_integrations()
        if loggers.is_flytekit_available():
            installed = [*installed, "flyte"]
    for name in names:
        if name not in known:
            raise UnembedError(f"--report-to {name!r} is unknown: give one of {', '.join(known)}")
        if name not in installed:
            raise UnembedError(
                f"--report-to {name} needs its package: pip install {PACKAGES.get(name, name)}"
            )
