"""A made-up record of every kind that has a page, in memory, with every figure that there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from made_up.alignments import example
from made_up.comparisons import make_live_comparison
from made_up.doses import Grid, disturbed
from made_up.ladders import make_ladder
from made_up.layers import make_layers, make_layers_comparison
from made_up.logs import compared_benchmarks
from made_up.network_signatures import network_alignments
from made_up.refinements import make_summary
from made_up.selection import mixture, plane, ranking, transfer, verdicts
from made_up.slices import made_slices
from unembed.decisions.audit.audit import Audit
from unembed.decisions.comparison.compare import Comparison, compare
from unembed.decisions.slices.choose import narrowest
from unembed.runs.run_record import Drawn
from unembed.selection.transfer.judged import JudgedTransfer
from unembed.training.doses.dose import Doses
from unembed.training.doses.records import TEMPERATURE
from unembed.training.doses.table import dose_table
from unembed.training.run.refinement import Refinement


@cache
def grid() -> Grid:
    return Grid()


def audit() -> Audit:
    """With a head in half precision, whose margins fall onto steps of a sixteenth, two further
    batch plans, which change the closest decisions, and another engine's log-probabilities.
    """
    found = grid().start
    table = found.table
    margin = table["margin"].to_numpy()
    steps = np.round(16 * margin) / 16
    exact = table["nll"].to_numpy()
    top = np.stack([table["top1"].to_numpy(), table["top2"].to_numpy()], axis=1)
    logits = 20 - np.stack([np.zeros_like(margin), margin], axis=1)
    noise = np.random.default_rng(0).normal(0, 0.02, (len(margin), 2, 2)).astype(np.float32)
    after = logits[:, None] + noise
    flips = np.where(after[..., 0] < after[..., 1], top[:, None, 1], top[:, None, 0])
    native_nll = exact + 0.01 * np.sin(np.arange(len(exact)))
    engine_nll = np.where(np.arange(len(exact)) % 7 == 0, np.nan, exact + 0.2 * noise[:, 0, 0])
    for name, column in {
        "rank": pa.array(np.ones(len(margin)), pa.int32()),
        "native_top1": table["top1"],
        "native_top2": table["top2"],
        "native_margin": pa.array(steps, pa.float32()),
        "native_step": pa.array(np.full(len(steps), 1 / 16), pa.float32()),
        "native_nll": pa.array(native_nll, pa.float32()),
        "topk_ids": _lists(top, pa.int32()),
        "topk_logits": _lists(logits, pa.float32()),
        "batch_top1": _lists(flips, pa.int32()),
        "batch_change": _lists(noise.reshape(len(noise), -1), pa.float32()),
        "engine_nll": pa.array(engine_nll, pa.float32(), from_pandas=True),
    }.items():
        table = table.append_column(name, column)
    options = {
        "top_k": 2,
        "native_head": True,
        "body_product": "plain",
        "repeat_batching": 2,
        "logprobs": {"name": "server.jsonl", "digest": "d"},
    }
    provenance = replace(found.provenance, options=options, model_dtype="bfloat16")
    record = replace(found, provenance=provenance, in_memory=table)
    places = [(one["doc"], one["pos"]) for one in narrowest(record, 2).to_pylist()]
    vars(record)["slices"] = made_slices(places)
    return record


def _lists(values: np.ndarray, kind: pa.DataType) -> pa.FixedSizeListArray:
    flat = pa.array(values.ravel(), kind)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def comparison() -> Comparison:
    """Of two audits in memory."""
    return compare(grid().start, grid().points()[0].audit, resamples=50)


def refinement() -> Refinement:
    """In memory: the folder that it names is not there."""
    heldout = comparison()
    return Refinement(make_summary(), heldout, heldout, Path("no such folder"))


def doses() -> Doses:
    """With read-outs of what was trained."""
    points = [
        point
        if point.objective == TEMPERATURE
        else replace(point, read_outs=disturbed(point.audit, "d" * (i + 2), 0.2))
        for i, point in enumerate(grid().points())
    ]
    start = disturbed(grid().start, "s", 0.4)
    table = dose_table(grid().start, points, start_read_outs=start, resamples=20)
    return Doses(table, table, {})


RECORDS: dict[str, Callable[[], Drawn]] = {
    "audit": cache(audit),
    "layers": make_layers,
    "comparison": cache(comparison),
    "depths": cache(make_layers_comparison),
    "live comparison": cache(make_live_comparison),
    "benchmarks": cache(compared_benchmarks),
    "ladder": cache(lambda: make_ladder(2)),
    "refinement": cache(refinement),
    "dose": cache(doses),
    "alignment": cache(lambda: example(6, missing=(4,))),
    "ranking": cache(lambda: ranking(5, missing=1, shift=-0.4)),
    "mixture": cache(lambda: mixture(5)),
    "transfer": cache(lambda: JudgedTransfer(transfer(5), verdicts())),
    "network": cache(lambda: network_alignments(3)),
    "index": cache(lambda: plane(30)),
}
"""How the record of each kind is made, once."""
