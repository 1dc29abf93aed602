"""What is said of benchmark logs, and no more than the intervals allow."""

from __future__ import annotations

from typing import Any

import pytest

from made_up.logs import compared_benchmarks
from unembed.decisions.benchmarks.compare import corrected
from unembed.decisions.benchmarks.record import ComparedBenchmarks, TaskChange, TaskMean
from unembed.decisions.comparison.flips import mcnemar_p
from unembed.report.verdicts.benchmarks import called, sentence, verdict
from unembed.stats.estimate import Estimate
from unembed.stats.paired_shares import paired_share_interval


def task(name: str, n: int, gained: int, lost: int, **more: Any) -> TaskChange:
    low, high = paired_share_interval(gained, lost, n)
    difference = Estimate((gained - lost) / n, low, high, n, documents=n)
    p = mcnemar_p(gained, lost)
    side = Estimate(0.5, 0.4, 0.6, n, documents=n)
    return TaskChange(
        name, "acc", "share", True, (), n, side, side, difference, gained, lost, p, p, p, **more
    )


def loss(name: str, value: float, half: float, p: float) -> TaskChange:
    difference = Estimate(value, value - half, value + half, 50, documents=50)
    side = Estimate(2.0, 1.9, 2.1, 50, documents=50)
    return TaskChange(
        name,
        "word_perplexity",
        "nats",
        False,
        (),
        50,
        side,
        side,
        difference,
        None,
        None,
        None,
        p,
        p,
    )


def record(*entries: TaskChange, mean: TaskMean | None = None) -> ComparedBenchmarks:
    n = sum(one.n for one in entries)
    return ComparedBenchmarks("a", "b", "h", None, n, n, entries, (), (), mean, (), ())


@pytest.mark.parametrize(
    ("one", "call"),
    [
        (task("t", 1000, 60, 20), "better"),
        (task("t", 1000, 20, 60), "worse"),
        (task("t", 1000, 5, 8), "too close to call"),
        (task("t", 20_000, 20, 24), "level"),
        (loss("t", 0.2, 0.1, 0.001), "worse"),
        (loss("t", -0.2, 0.1, 0.001), "better"),
        (loss("t", 0.002, 0.006, 0.5), "level"),
        (loss("t", 0.2, 0.1, 0.2), "too close to call"),
    ],
)
def test_a_task_is_called_by_interval_and_test(one: TaskChange, call: str) -> None:
    assert called(one) == call
    assert sentence(record(one)).startswith(f"On t quality is {call}: {one.label} ")


def test_a_small_difference_that_is_sure_is_slight() -> None:
    assert "slightly worse" in sentence(record(task("t", 100_000, 100, 200)))


def test_a_task_alone_may_be_worse_and_among_many_too_close() -> None:
    one = task("t", 200, 2, 11)
    assert called(one) == "worse"
    family = corrected([one, *(task(f"u{i}", 200, 4, 4) for i in range(5))])
    assert called(family[0]) == "too close to call"
    assert sentence(record(*family)) == "Of 6 tasks all 6 are too close to call."


def test_what_is_too_close_says_how_many_samples_would_tell() -> None:
    found = verdict(record(task("t", 400, 10, 10)))
    assert "about 9,000 samples like those of t, of which there are 400" in found.trust
    still = verdict(record(task("t", 400, 0, 0)))
    assert "about 800 samples like those of t, of which there are 400" in still.trust
    assert "none of 400 samples became right or wrong" in still.change
    assert found.next.startswith("unembed compare")
    assert not verdict(record(task("t", 1000, 20, 60))).next


def test_the_mean_leads_and_the_tasks_follow() -> None:
    found = compared_benchmarks()
    assert found.mean is not None
    assert set(found.mean.names) == {"arc", "boolq", "mmlu"}
    said = verdict(found)
    assert said.sentence.startswith("On average of 3 tasks quality is worse: −")
    assert said.sentence.endswith("; of all, 4 are worse and 1 is too close to call.")
    assert "Tests are corrected for being 5 (Holm)." in said.quality
