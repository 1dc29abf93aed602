"""Benchmark runs without a harness."""

from __future__ import annotations

from unembed.training.benchmarks.harness import TaskScores
from unembed.training.benchmarks.run import BenchmarkRun


def scores(task: str, values: list[float], metric: str = "acc") -> TaskScores:
    digests = tuple(f"{task}{i}" for i in range(len(values)))
    return TaskScores(
        task, "1.0", metric, tuple(range(len(values))), digests, {metric: tuple(values)}
    )


def run_of(*tasks: TaskScores) -> BenchmarkRun:
    return BenchmarkRun("m", None, None, {"lm_eval": "0.4.13"}, tasks)
