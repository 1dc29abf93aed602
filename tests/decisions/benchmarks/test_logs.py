"""What is read of the harness's files, and what is refused in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from made_up.logs import DATE, write_logs
from unembed.decisions.benchmarks.logs import holds_logs, read_logs
from unembed.errors import UnembedError

ACC = [1.0, 0.0, 1.0, 1.0]


def test_every_kind_of_metric_is_recognised_by_making_its_number_again(tmp_path: Path) -> None:
    pairs = [[-10.0, 4], [-3.0, 1], [-7.5, 2], [-1.0, 3]]
    scores = {
        "acc": ACC,
        "words": [3.0, 8.0, 2.0, 1.0],
        "perplexity": [-1.0, -2.0, -0.5, -4.0],
        "word_perplexity": pairs,
        "bits_per_byte": pairs,
        "f1": ACC,
    }
    write_logs(tmp_path, {"t": scores}, reported={"t": {"f1": 0.123}})
    found = read_logs(tmp_path).tasks["t"]
    assert {name: one.unit for name, one in found.metrics.items()} == {
        "acc": "share",
        "words": "number",
        "perplexity": "nats",
        "word_perplexity": "nats",
        "bits_per_byte": "bits",
    }
    assert found.unread == {"f1": "it is no mean of its samples"}
    loss = found.metrics["word_perplexity"]
    assert loss.sums.sum() / loss.sizes.sum() == pytest.approx(21.5 / 10)
    bits = found.metrics["bits_per_byte"]
    assert bits.sums.sum() / bits.sizes.sum() == pytest.approx(21.5 / 10 / math.log(2))
    assert [one.higher_is_better for one in found.metrics.values()] == [True, *[False] * 4]


def test_filters_and_repeats_are_kept_apart(tmp_path: Path) -> None:
    scores = {"exact_match,strict": ACC, "exact_match,flexible": [1.0, 1.0, 1.0, 1.0]}
    write_logs(tmp_path, {"gsm": scores}, repeats=3)
    found = read_logs(tmp_path).tasks["gsm"]
    assert list(found.metrics) == ["exact_match,strict", "exact_match,flexible"]
    assert found.metrics["exact_match,flexible"].sums.mean() == 1.0
    assert found.repeats == 3


def test_a_folder_of_logs_is_told_from_others(tmp_path: Path) -> None:
    below = write_logs(tmp_path / "logs", {"t": {"acc": ACC}})
    assert holds_logs(tmp_path / "logs")
    assert holds_logs(below)
    assert holds_logs(below / f"results_{DATE}.json")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert not holds_logs(tmp_path / "model")
    assert not holds_logs("org/model")
    next(below.glob("samples_*")).unlink()
    with pytest.raises(UnembedError, match=r"has no samples_.* again with --log_samples"):
        holds_logs(tmp_path / "logs")


def test_of_two_runs_in_one_folder_one_is_chosen_by_its_results(tmp_path: Path) -> None:
    later = "2026-01-03T00-00-00.000000"
    write_logs(tmp_path, {"t": {"acc": ACC}})
    below = write_logs(tmp_path, {"t": {"acc": [0.0, 0.0, 0.0, 0.0]}}, date=later)
    with pytest.raises(UnembedError, match=r"holds task t twice, .* give the results_\*\.json"):
        read_logs(tmp_path)
    assert read_logs(below / f"results_{later}.json").tasks["t"].metrics["acc"].sums.sum() == 0
    assert read_logs(below / f"results_{DATE}.json").tasks["t"].metrics["acc"].sums.sum() == 3


def test_tasks_of_one_model_may_be_logged_apart_but_not_those_of_two(tmp_path: Path) -> None:
    write_logs(tmp_path, {"a": {"acc": ACC}})
    write_logs(tmp_path, {"b": {"acc": ACC}}, date="2026-01-03T00-00-00.000000")
    assert list(read_logs(tmp_path).tasks) == ["a", "b"]
    write_logs(tmp_path, {"c": {"acc": ACC}}, model="org/other")
    with pytest.raises(UnembedError, match="logs of 2 models, org/model and org/other"):
        read_logs(tmp_path)


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda line: line | {"doc_id": 1}, "is there twice"),
        (lambda line: {k: v for k, v in line.items() if k != "doc_hash"}, "it lacks 'doc_hash'"),
        (lambda line: line | {"metrics": 3}, "not iterable"),
    ],
)
def test_damaged_samples_are_named(tmp_path: Path, break_it: object, told: str) -> None:
    below = write_logs(tmp_path, {"t": {"acc": ACC}})
    [samples] = below.glob("samples_*")
    lines = samples.read_text().splitlines()
    lines[2] = json.dumps(break_it(json.loads(lines[2])))  # type: ignore[operator]
    samples.write_text("\n".join(lines))
    with pytest.raises(UnembedError, match=rf"samples_t_.*{told}"):
        read_logs(tmp_path)


def test_results_that_were_taken_away_are_asked_for(tmp_path: Path) -> None:
    below = write_logs(tmp_path, {"t": {"acc": ACC}})
    (below / f"results_{DATE}.json").unlink()
    with pytest.raises(UnembedError, match="needs the results of its run beside it"):
        read_logs(tmp_path)


def test_a_field_that_no_task_has_is_refused(tmp_path: Path) -> None:
    write_logs(tmp_path, {"t": {"acc": ACC}})
    with pytest.raises(UnembedError, match="has a field 'story' in its documents"):
        read_logs(tmp_path, "story")
