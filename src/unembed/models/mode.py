"""A model in the mode that its owner left it in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import nn

Given = ParamSpec("Given")
Found = TypeVar("Found")


def restores_mode(verb: Callable[Given, Found]) -> Callable[Given, Found]:
    """A verb that leaves every model given to it, or in a checkpoint, in training or evaluation.

    Module by module, for an owner may train parts of a model and hold others in evaluation.
    """

    @wraps(verb)
    def careful(*args: Given.args, **kwargs: Given.kwargs) -> Found:
        given = [*args, *kwargs.values()]
        held = [getattr(one, "model", None) for one in given]
        with kept_mode(*(one for one in [*given, *held] if isinstance(one, nn.Module))):
            return verb(*args, **kwargs)

    return careful


@contextmanager
def kept_mode(*models: nn.Module) -> Iterator[None]:
    """Put every module of these models back into training or evaluation at the end."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients, dropout and skipped layers; every module's mode is put back."""
    with kept_mode(model), torch.no_grad():
        model.eval()
        yield
