"""The processes of a launch that train one model together."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch

from unembed.errors import UnembedError
from unembed.models.checkpoint import hushed
from unembed.runs.ranks import Ranks, current_ranks, launched
from unembed.training.recipe.recipe import Recipe

ENGINES = {"FSDP 1": "ACCELERATE_USE_FSDP", "DeepSpeed": "ACCELERATE_USE_DEEPSPEED"}
"""Engines that a launch may ask for, by what it then says in the environment."""
HEAR_SECONDS = 3.0
"""How long a process that lost the others waits to hear which of them failed, and why."""


def check_processes(recipe: Recipe) -> None:
    """Raise UnembedError where the processes of a launch cannot train by this recipe."""
    processes = current_ranks().processes
    if processes == 1 and launched():
        raise UnembedError(
            f"a launcher started {os.environ['WORLD_SIZE']} processes, which train together or not "
            "at all: call refine in each of them within unembed.joined(), or leave the launcher out"
        )
    for name, asked in ENGINES.items():
        if processes > 1 and os.environ.get(asked, "false").lower() == "true":
            if name == "FSDP 1" and os.environ.get("FSDP_VERSION", "1") == "2":
                continue
            raise UnembedError(
                f"refine trains by DDP and by FSDP 2, and {name} is asked for: launch with "
                "--use_fsdp --fsdp_version 2, or train by a Trainer of your own with RefineMixin"
            )
    cut = os.environ.get(ENGINES["FSDP 1"], "false").lower() == "true"
    if recipe.row_bound is not None and cut:
        raise UnembedError(
            f"row_bound {recipe.row_bound:g} needs whole rows, which FSDP cuts: launch without "
            "--use_fsdp, or leave it out"
        )
    if recipe.batch_size % processes:
        raise UnembedError(
            f"batch_size {recipe.batch_size} does not share out among {processes} processes: give "
            f"a multiple of {processes}"
        )


def of_process(recipe: Recipe) -> Recipe:
    """The recipe as each process trains by it: its own share of every batch."""
    return replace(recipe, batch_size=recipe.batch_size // current_ranks().processes)


@contextmanager
def training_together() -> Iterator[Ranks]:
    """torch.distributed's group of all processes of the launch, for as long as a training takes.

    Where a process loses the others it raises what the one that failed said.
    """
    ranks = current_ranks()
    if ranks.processes == 1:
        yield ranks
        return
    dist: Any = torch.distributed
    meeting = ranks.from_first("where to train", f"training/{secrets.token_hex(8)}")
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=dist.PrefixStore(meeting, ranks.store),
        rank=ranks.process,
        world_size=ranks.processes,
    )
    try:
        yield ranks
    except RuntimeError:
        until = time.monotonic() + HEAR_SECONDS
        while time.monotonic() < until:
            ranks.check()
            time.sleep(0.1)
        raise
    finally:
        with hushed():
            states: Any = import_module("accelerate.state")
        states.AcceleratorState._reset_state(reset_partial_state=True)
        dist.destroy_process_group()
