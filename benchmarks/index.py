"""How fast an index of signatures answers and grows, and whether it loses anything when killed.

    python benchmarks/index.py                     # 674 signatures, additions, and 1,000,000
    python benchmarks/index.py --large 100000 --dtype int8
    python benchmarks/index.py --large 0 --crash 100
    python benchmarks/index.py --approximate        # with faiss before it

Signatures are made up: clusters of uneven size, cosines of .2 to .95, m = 4,096. Times are medians
in milliseconds of whole calls of ``Index.query`` and ``Index.add``, flushed to disk; where other
work runs, ``cpu_ms``, the time of all threads, is the steadier one. Half of the
queries are new members of clusters, half of none. Recall is the share of the ten nearest by
float32 that is found. ``--crash`` kills a writer so often, and exits 1 if anything reported is
lost. Needs 9 GB of disk and memory for 1,000,000 in float16, 5 in int8. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from index_crash import crashes
from index_made_up import IDENTITY, SPEC, World, point, signature
from unembed.selection.index.index import Index

DOMAINS = 674
ADDED = 1000
TOP = 10
QUERIES = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--dtype", default="float16", choices=("float32", "float16", "int8"))
    parser.add_argument("--approximate", action="store_true")
    parser.add_argument("--clusters", type=int, default=2000)
    parser.add_argument("--crash", type=int, default=0, metavar="TRIES")
    parser.add_argument("--m", type=int, default=256, help="of the signatures of --crash")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to put the index [a temporary folder]")
    given = parser.parse_args()
    result: dict[str, object] = {"threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        if given.crash:
            result["crashes"] = crashes(Path(place), given.crash, given.m, given.seed)
            result["lost"] = [x["lost"] for x in result["crashes"] if x["lost"]]
        else:
            world = World.of(SPEC.m, given.clusters, given.seed)
            result["small"] = small(Path(place) / "small", world)
            if given.large:
                where = Path(place) / "large"
                result["large"] = large(where, world, given.large, given.dtype, given.approximate)
    print(json.dumps(result, indent=1))
    sys.exit(1 if result.get("lost") else 0)


def small(folder: Path, world: World) -> dict[str, object]:
    """An index of 674: queries, additions one by one, and a thousand at once."""
    index = Index.create(folder, IDENTITY)
    own = [signature(f"d.{i}", x.numpy()) for i, x in enumerate(world.members(DOMAINS, 1))]
    used = time.process_time()
    singly = [timed(lambda one=one: index.add([one])) for one in own]
    add_cpu = (time.process_time() - used) / DOMAINS * 1e3
    asked = [signature(f"q.{i}", x.numpy()) for i, x in enumerate(world.members(QUERIES, 2))]
    used = time.process_time()
    queries = [timed(lambda one=one: index.query(one, digest="none")) for one in asked]
    query_cpu = (time.process_time() - used) / QUERIES * 1e3
    many = [signature(f"e.{i}", x.numpy()) for i, x in enumerate(world.members(ADDED, 3))]
    at_once = timed(lambda: index.add(many))
    return {
        "entries": DOMAINS,
        "query_ms": spread(queries),
        "query_cpu_ms": round(query_cpu, 2),
        "add_ms": spread(singly),
        "add_cpu_ms": round(add_cpu, 2),
        "add_1000_ms_each": round(at_once / ADDED, 3),
        "open_ms": round(timed(lambda: Index.open(folder)), 1),
    }


def large(
    folder: Path, world: World, count: int, dtype: str, approximate: bool
) -> dict[str, object]:
    """An index of many: recall against float32, times, and what it takes to grow."""
    near, far = world.members(QUERIES, 7), world.strangers(QUERIES, 8)
    asked = torch.cat([near, far])
    index = Index.create(folder, IDENTITY, dtype=dtype)
    best = torch.full((len(asked), TOP), -torch.inf)
    rows = torch.zeros((len(asked), TOP), dtype=torch.long)
    put_s, at, threads = 0.0, 0, torch.get_num_threads()
    torch.set_num_threads(1)  # which leaves a shared machine's other work alone
    for x in world.batches(count, 100):
        scores = torch.cat([best, asked @ x.T / SPEC.m], 1)
        numbers = torch.arange(at, at + len(x)).expand(len(asked), -1)
        best, kept = scores.topk(TOP)
        rows = torch.cat([rows, numbers], 1).gather(1, kept)
        points = [point(f"x.{at + i}", one) for i, one in enumerate(x.numpy())]
        put_s += timed(lambda points=points: index.put(points)) / 1e3
        at += len(x)
        if at % (1 << 16) == 0:
            print(f"{at:,} added, {put_s:.0f} s", file=sys.stderr, flush=True)
    torch.set_num_threads(threads)
    opening = timed(lambda: Index.open(folder))
    index = Index.open(folder)
    build_s = timed(index.build) / 1e3 if approximate else None
    ask = partial(index.query, top=TOP, digest="none", approximate=approximate)
    signatures = [signature(f"q.{i}", x.numpy()) for i, x in enumerate(asked)]
    first = timed(lambda: ask(signatures[0]))
    found: dict[str, dict[str, object]] = {}
    for kind, some in (("near", range(QUERIES)), ("far", range(QUERIES, 2 * QUERIES))):
        times, alone, cpu, hits, closely = [], [], [], [], []
        for i in some:
            began, used = time.perf_counter(), time.process_time()
            answer = ask(signatures[i])
            times.append((time.perf_counter() - began) * 1e3)
            cpu.append((time.process_time() - used) * 1e3)
            torch.set_num_threads(1)
            alone.append(timed(lambda i=i: ask(signatures[i])))
            torch.set_num_threads(threads)
            names = {int(match.entry.name.split(".")[1]) for match in answer.matches}
            hits.append(len(names & set(rows[i].tolist())) / TOP)
            closely.append(answer.closely)
        found[kind] = {
            "query_ms": spread(times),
            "one_thread_ms": spread(alone),
            "cpu_ms": spread(cpu),
            "recall_at_10": round(statistics.mean(hits), 4),
            "read_closely": int(statistics.median(closely)),
            "tenth_cosine": round(float(best[some.start : some.stop, -1].median()), 3),
        }
    extra = [signature(f"y.{i}", x.numpy()) for i, x in enumerate(world.members(20, 9))]
    one = [timed(lambda one=one: index.add([one])) for one in extra]
    return {
        "entries": count,
        "dtype": dtype,
        "gib": round(sum(path.stat().st_size for path in folder.iterdir()) / 2**30, 2),
        "put_ms_each": round(put_s / count * 1e3, 3),
        "open_ms": round(opening),
        "build_s": build_s,
        "first_query_ms": round(first, 1),
        **found,
        "first_add_ms": round(one[0], 1),
        "add_ms": spread(one[1:]),
    }


def timed(call: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def spread(times: list[float]) -> dict[str, float]:
    """The median, and what nine in ten stay within."""
    ninth = sorted(times)[int(0.9 * (len(times) - 1))]
    return {"median": round(statistics.median(times), 2), "p90": round(ninth, 2)}


if __name__ == "__main__":
    main()
