"""Settings of a Trainer that touch the loss: which of them a refinement cannot honour."""

from __future__ import annotations

from typing import Any

from unembed.errors import UnembedError


def refuse_processes_with_several_devices(trainer: Any) -> None:
    """Raise UnembedError where one process would spread a batch over several devices."""
    if trainer.args.n_gpu > 1:
        raise UnembedError(
            f"one process would train on {trainer.args.n_gpu} GPUs, with a head on each: start "
            "one process a GPU with torchrun, or set CUDA_VISIBLE_DEVICES"
        )


def refuse_other_losses(trainer: Any) -> None:
    """Raise UnembedError for settings that a loss without logits would drop.

    Accumulation, clipping, mixed precision, noise on the embeddings, compilation, and whether
    means are over the tokens of all processes are honoured.
    """
    args, model = trainer.args, trainer.model
    config = getattr(model, "config", None)
    # Which setting, and what to do about it.
    found = {
        f"label_smoothing_factor {args.label_smoothing_factor}": (
            args.label_smoothing_factor != 0,
            "set it to 0",
        ),
        f"compute_loss_func {_name(trainer.compute_loss_func)}": (
            trainer.compute_loss_func is not None,
            "leave it out",
        ),
        "use_liger_kernel": (
            bool(getattr(args, "use_liger_kernel", False)),
            "set it to False; no logits are made without it either",
        ),
        f"the model's own loss_function {_name(getattr(model, '_loss_function', None))}": (
            hasattr(model, "_loss_function"),
            "delete it",
        ),
        "output_router_logits, a loss of the router's,": (
            bool(getattr(config, "output_router_logits", False)),
            "set it to False in the model's configuration",
        ),
    }
    for setting, (given, remedy) in found.items():
        if given:
            raise UnembedError(
                f"{setting} would be dropped: the loss is taken before the logits. For a "
                f"refinement {remedy}"
            )
    for name, way in (("tp", "tensor"), ("cp", "context"), ("sp", "sequence")):
        size = getattr(trainer, f"get_{name}_size", lambda: 1)()
        if size > 1:
            raise UnembedError(
                f"{way} parallelism of {size} splits what a process sees of a batch or of the "
                "head: train with DDP or FSDP"
            )


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
