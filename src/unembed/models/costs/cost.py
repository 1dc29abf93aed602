"""What a run will take before it is begun: cost(model, text) -> Cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from unembed.errors import UnembedError
from unembed.models.checkpoint import automatic_class, configuration_of
from unembed.models.costs.devices import HERE, device_named, published
from unembed.models.costs.estimate import PlannedRun, positions_at_once, positions_of
from unembed.models.costs.kinds import kind_named
from unembed.models.costs.model_work import ModelWork
from unembed.models.costs.probe import measured
from unembed.models.costs.record import Cost
from unembed.models.costs.text_size import TextSize
from unembed.models.devices.placement import usable_device
from unembed.models.devices.tensor_parallel import refuse_unsplit
from unembed.text.batches import BatchPlan


def cost(
    model: str,
    text: str,
    *,
    run: str = "audit",
    device: str | None = None,
    ranks: int = 1,
    tp: int = 1,
    context: int | None = None,
    part_positions: int | None = None,
    dtype: str = "auto",
    **source: Any,
) -> Cost:
    """Say what a run of a model over a text will take, before either is there.

    ``model`` is a folder or a hub name with a config.json; of weights nothing is needed. ``text``
    is what a run is given, or a number of tokens such as ``1e9``. ``run`` is the verb: "audit",
    "compare" (of two such models), "layers" or "sketch", by its defaults. ``device`` names
    published rates (h100, h200, a100, l40s, rtx4090), a share of which is assumed; None or "here"
    measures those of this machine at the model's own shapes, in a second or two. ``ranks`` are the
    processes of the run, a device each, and ``tp`` of them hold one model together.

    Equivalent to, with a term for each kind of work::

        seconds = start + load + reading + proofs                     # by each rank
        seconds += fullest_rank_positions * seconds_a_position        # body, head, tables
        seconds += summary + page                                     # by the first rank alone

    Raises UnembedError for what a run would be refused for. Source: theory §15.
    """
    kind = kind_named(run)
    check_ranks(ranks, tp)
    name = (device or HERE).partition(":")[0]
    named = None if name in (HERE, "cpu", "cuda") else device_named(str(device))
    config = configuration_of(model, weights=False, **source)
    work = ModelWork.of(model, config, dtype)
    window = work.context(context)
    if tp > 1:
        refuse_unsplit(model, config, automatic_class(config), tp)
    place = (
        usable_device(None if name == HERE else device) if named is None else torch.device("cuda")
    )
    plan = BatchPlan.of(
        place, None, kind.part_positions if part_positions is None else part_positions
    )
    size = TextSize.of(text, model, window, plan)
    if named is None:
        at_once = positions_at_once(positions_of(kind, size), plan)
        rates = measured(work, config, size.window, at_once, place)
        shared = {name: getattr(rates, name) / tp for name in ("body", "product", "statistics")}
        rates = replace(rates, **shared)
    else:
        rates = published(named, work, size.window, tp)
    planned = PlannedRun(kind, work, size, rates, plan, ranks, tp)
    planned.check()
    return planned.cost()


def check_ranks(ranks: int, tp: int) -> None:
    """Raise UnembedError for numbers of processes that make no launch."""
    for name, value in (("--ranks", ranks), ("--tp", tp)):
        if value < 1:
            raise UnembedError(f"{name} {value} is no number of processes: give 1 or more")
    if ranks % tp:
        below = ranks - ranks % tp
        fits = f"{below} or {below + tp}" if below else f"{tp}"
        raise UnembedError(
            f"--ranks {ranks} is no multiple of --tp {tp}, the ranks of one model: give {fits}"
        )
