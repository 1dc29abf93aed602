"""A picture of the cells around a decision, beside a raster of the same plane, in one run.

    python benchmarks/slices.py                     # GPT-2's head: 50,257 x 768
    python benchmarks/slices.py --shapes gpt2 qwen3 gemma3 --threads 2

Each repetition is a fresh process. ``slice`` is all of it: walls, plane, window, cells and their
certificate. ``raster`` takes the largest of all logits at every pixel of a picture as large, from
the same three numbers a token, without the walls and the plane; a share of its rows is measured and
multiplied up. ``many`` is a slice's part of a dozen that are made together. Rows are random, of
GPT-2's length; the state is one of theirs with noise. ``--json`` prints JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch

from unembed.decisions.slices.plane import facet_plane
from unembed.decisions.slices.slice import slice_of, slices_of
from unembed.decisions.slices.walls import walls_of
from unembed.head.head import Head

SHAPES = {"gpt2": (768, 50_257), "qwen3": (1_024, 151_936), "gemma3": (1_152, 262_144)}
SIDE = 540
"""Pixels of a picture in each direction."""
MEASURED_ROWS = 6
DOZEN = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["gpt2"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=SHAPES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.child, given.threads)))
        return
    found = {}
    for shape in given.shapes:
        command = [sys.executable, __file__, "--child", shape, "--threads", str(given.threads)]
        runs = [
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(given.repeats)
        ]
        found[shape] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    if given.json:
        print(json.dumps(found, indent=1))
        return
    for shape, one in found.items():
        dim, vocab = SHAPES[shape]
        print(
            f"{shape} ({vocab:,} x {dim}): slice {one['slice_s']:.2f} s, of a dozen "
            f"{one['many_s']:.2f} s each, raster {one['raster_s']:.1f} s "
            f"({one['raster_s'] / one['slice_s']:.0f} times); {one['cells']:.0f} cells, "
            f"{one['corners']:.0f} corners, largest excess {one['excess']:.0e} logits, "
            f"{one['more_mib']:.0f} MiB more memory"
        )


def measure(shape: str, threads: int) -> dict[str, float]:
    """One repetition."""
    torch.set_num_threads(threads)
    dim, vocab = SHAPES[shape]
    g = torch.Generator().manual_seed(0)
    head = Head.from_parts(0.14 * torch.randn(vocab, dim, generator=g))
    states = head.weight[:DOZEN] * 8 + 2 * torch.randn(DOZEN, dim, generator=g)
    slice_of(states[1], head, None, half=1.0)
    before = _peak_mib()
    begin = time.perf_counter()
    found = slice_of(states[0], head, None)
    took = time.perf_counter() - begin
    more = _peak_mib() - before
    begin = time.perf_counter()
    slices_of(states, head, None)
    many = (time.perf_counter() - begin) / DOZEN
    logits = facet_plane(walls_of(states[:1], head)[0]).logits(head)
    side = np.linspace(found.window.left, found.window.right, SIDE)
    begin = time.perf_counter()
    for y in side[:: SIDE // MEASURED_ROWS][:MEASURED_ROWS]:
        row = logits[0] + y * logits[2]
        for x in side:
            (row + x * logits[1]).argmax()
    raster = (time.perf_counter() - begin) * SIDE / MEASURED_ROWS
    return {
        "slice_s": took,
        "many_s": many,
        "raster_s": raster,
        "cells": len(found.cells),
        "corners": found.certificate.corners,
        "excess": found.certificate.largest_excess,
        "more_mib": more,
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
