"""Two models' logs, sample by sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_up.logs import write_logs
from reference.benchmarks import paired_difference
from unembed.decisions.benchmarks.compare import compare_logs
from unembed.decisions.benchmarks.record import ComparedBenchmarks
from unembed.decisions.comparison.flips import clustered_mcnemar_p, mcnemar_p
from unembed.errors import UnembedError
from unembed.report.pages import load_run
from unembed.report.verdicts.benchmarks import called
from unembed.stats.paired_shares import paired_share_interval


def coins(n: int, share: float, seed: int) -> list[float]:
    return [float(one) for one in np.random.default_rng(seed).random(n) < share]


def flipped(scores: list[float], share: float, seed: int) -> list[float]:
    """The same with some of the right ones wrong."""
    generator = np.random.default_rng(seed)
    return [one * float(generator.random() >= share) for one in scores]


def both(tmp_path: Path, before: Any, after: Any, **more: Any) -> ComparedBenchmarks:
    write_logs(tmp_path / "a", before, model="org/a", **more)
    write_logs(tmp_path / "b", after, model="org/b", **more)
    return compare_logs(tmp_path / "a", tmp_path / "b", resamples=200)


def test_a_task_differs_by_the_mean_of_its_samples_with_tango_and_mcnemar(tmp_path: Path) -> None:
    before = coins(150, 0.7, 1)
    after = flipped(before, 0.2, 2)
    [one] = both(tmp_path, {"t": {"acc": before}}, {"t": {"acc": after}}).entries
    mean, up, down = paired_difference(before, after)
    assert one.difference.value == pytest.approx(mean)
    assert (one.wrong_to_right, one.right_to_wrong) == (up, down)
    assert (one.difference.low, one.difference.high) == paired_share_interval(up, down, 150)
    assert one.mcnemar_p == one.p == one.corrected_p == mcnemar_p(up, down)
    assert called(one) == "worse"
    assert one.before.value == pytest.approx(np.mean(before))


def test_equal_logs_differ_by_nothing_and_say_how_little_that_bounds(tmp_path: Path) -> None:
    scores = coins(60, 0.5, 3)
    found = both(tmp_path, {"t": {"acc": scores}}, {"t": {"acc": scores}})
    [one] = found.entries
    assert one.difference.value == 0.0
    assert (one.difference.low, one.difference.high) == paired_share_interval(0, 0, 60)
    assert called(one) == "too close to call"
    assert found.changed == ()


def test_samples_of_one_document_are_taken_together(tmp_path: Path) -> None:
    before = np.repeat(coins(40, 0.7, 1), 5)
    after = np.repeat(flipped(coins(40, 0.7, 1), 0.2, 2), 5)
    docs = {"t": [{"q": f"asks {i}", "story": i // 5} for i in range(200)]}
    scores = {"t": {"acc": before.tolist()}}, {"t": {"acc": after.tolist()}}
    apart = both(tmp_path, *scores, docs=docs)
    together = compare_logs(tmp_path / "a", tmp_path / "b", document="story", resamples=200)
    assert (apart.documents, together.documents) == (200, 40)
    one, other = apart.entries[0], together.entries[0]
    assert one.difference.value == other.difference.value
    assert other.difference.low < one.difference.low  # type: ignore[operator]
    net = (after - before).reshape(40, 5).sum(axis=1)
    assert other.p == clustered_mcnemar_p(net).value
    assert one.mcnemar_p == other.mcnemar_p


def test_a_perplexity_is_compared_as_the_loss_behind_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    words = generator.integers(5, 30, 40)
    logs = -words * generator.uniform(2, 4, 40)
    before = [[float(a), int(b)] for a, b in zip(logs, words, strict=True)]
    after = [[1.05 * a, b] for a, b in before]
    scores = [{"t": {"word_perplexity": one, "bits_per_byte": one}} for one in (before, after)]
    found = both(tmp_path, *scores)
    [one], [bits] = found.entries, found.others
    assert one.difference.value == pytest.approx(-0.05 * logs.sum() / words.sum())
    assert (one.unit, bits.unit, called(one), called(bits)) == ("nats", "bits", "worse", "worse")
    assert one.difference.low > 0  # type: ignore[operator]
    assert found.mean is None


def test_a_group_is_weighted_as_the_harness_did(tmp_path: Path) -> None:
    old = {"a": coins(100, 0.8, 1), "b": coins(20, 0.5, 2)}
    new = {"a": flipped(old["a"], 0.3, 3), "b": flipped(old["b"], 0.1, 4)}
    pooled = [np.mean(side["a"] + side["b"]) for side in (old, new)]
    plain = [(np.mean(side["a"]) + np.mean(side["b"])) / 2 for side in (old, new)]
    for name, numbers in (("sized", pooled), ("plain", plain)):
        for side, scores, number in zip("ab", (old, new), numbers, strict=True):
            write_logs(
                tmp_path / name / side,
                {task: {"acc": one} for task, one in scores.items()},
                model=f"org/{side}",
                groups={"g": (("a", "b"), {"acc": float(number)})},
            )
        found = compare_logs(tmp_path / name / "a", tmp_path / name / "b", resamples=200)
        [group] = found.entries
        assert (group.name, group.parts, group.n) == ("g", ("a", "b"), 120)
        assert group.difference.value == pytest.approx(numbers[1] - numbers[0])
        assert [one.name for one in found.inside] == ["a", "b"]
        assert group.right_to_wrong == sum(one.right_to_wrong or 0 for one in found.inside)
    assert group.mcnemar_p is None
    assert group.difference.low < group.difference.value < group.difference.high < 0  # type: ignore[operator]


def test_tasks_of_a_group_are_told_by_the_group_s_metric(tmp_path: Path) -> None:
    old = {
        name: {"acc": coins(30, 0.5, i), "acc_norm": coins(30, 0.6, 9 + i)}
        for i, name in enumerate("ab")
    }
    number = float(np.mean(old["a"]["acc"] + old["b"]["acc"]))
    found = both(tmp_path, old, old, groups={"g": (("a", "b"), {"acc": number})})
    assert [one.metric for one in found.entries] == ["acc"]
    assert [(one.name, one.metric) for one in found.inside] == [("a", "acc"), ("b", "acc")]
    assert [(one.name, one.metric) for one in found.others] == [
        ("a", "acc_norm"),
        ("b", "acc_norm"),
    ]


def test_a_group_whose_number_cannot_be_made_again_gives_way_to_its_tasks(tmp_path: Path) -> None:
    scores = {"a": {"acc": coins(30, 0.5, 1)}, "b": {"acc": coins(30, 0.5, 2)}}
    groups = {"g": (("a", "b"), {"acc": 0.1234})}
    found = both(tmp_path, scores, scores, groups=groups)
    assert [one.name for one in found.entries] == ["a", "b"]
    assert found.inside == ()
    assert any("the number of g could not be made" in note for note in found.notes)


def test_tests_are_corrected_for_their_number(tmp_path: Path) -> None:
    old = {f"t{i}": {"acc": [1.0] * 40} for i in range(6)}
    new = {f"t{i}": {"acc": [1.0] * (40 - lost) + [0.0] * lost} for i, lost in enumerate((6,) * 6)}
    found = both(tmp_path, old, new)
    alone = mcnemar_p(0, 6)
    assert alone < 0.05 < 6 * alone
    assert [one.corrected_p for one in found.entries] == pytest.approx([6 * alone] * 6)
    assert {called(one) for one in found.entries} == {"too close to call"}
    assert found.mean is not None
    assert found.mean.difference.value == pytest.approx(-6 / 40)
    assert found.mean.difference.high < 0  # type: ignore[operator]
    assert "On average of 6 tasks quality is worse" in found.verdict.sentence
    assert "all 6 are too close to call" in found.verdict.sentence


def test_what_differs_besides_the_model_is_noted(tmp_path: Path) -> None:
    scores = {"t": {"acc": coins(30, 0.5, 1), "f1": coins(30, 0.5, 2)}}
    write_logs(tmp_path / "a", scores, model="org/a", reported={"t": {"f1": 9.0}})
    write_logs(tmp_path / "b", scores, model="org/b", prompt="<user>", repeats=2)
    found = compare_logs(tmp_path / "a", tmp_path / "b", resamples=50)
    words = "\n".join(found.notes)
    assert "30 of 30 prompts of t are worded otherwise" in words
    assert "t has 2 answers a sample" in words
    assert "f1 of t is left out: it is no mean of its samples" in words


def test_a_task_without_a_mean_is_left_out_and_its_group_gives_way(tmp_path: Path) -> None:
    old = {"a": {"acc": coins(30, 0.5, 1)}, "b": {"f1": coins(30, 0.5, 2)}, "c": {"acc": [1.0] * 9}}
    for side in "ab":
        write_logs(
            tmp_path / side,
            old,
            model=f"org/{side}",
            groups={"g": (("a", "b"), {"acc": 0.5})},
            reported={"b": {"f1": 9.0}},
        )
    found = compare_logs(tmp_path / "a", tmp_path / "b", resamples=50)
    assert {one.name for one in found.entries} == {"a", "c"}
    assert found.samples == 39
    assert found.inside == ()
    [note] = (one for one in found.notes if "left out" in one)
    assert note.startswith("b is left out: it has no metric that both logged")
    assert "f1: it is no mean of its samples" in note


def _tasks(tmp_path: Path) -> None:
    write_logs(tmp_path / "b", {"t": {"acc": [1.0] * 9}, "u": {"acc": [1.0]}}, model="org/b")


def _limit(tmp_path: Path) -> None:
    write_logs(tmp_path / "b", {"t": {"acc": [1.0] * 7}}, model="org/b")


def _documents(tmp_path: Path) -> None:
    docs = {"t": [{"q": f"t asks {i if i < 4 else -i}"} for i in range(9)]}
    write_logs(tmp_path / "b", {"t": {"acc": [1.0] * 9}}, model="org/b", docs=docs)


def _version(tmp_path: Path) -> None:
    write_logs(tmp_path / "b", {"t": {"acc": [1.0] * 9}}, model="org/b", versions={"t": 2.0})


def _metrics(tmp_path: Path) -> None:
    write_logs(tmp_path / "b", {"t": {"words": [1.0] * 9}}, model="org/b")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (_tasks, "task u is logged in .*/b and not in .*/a: run lm_eval on both"),
        (_limit, "sample doc_id 7 of t is in .*/a and not in .*/b: run both with the same --limit"),
        (_documents, "sample doc_id 4 of t has doc_hash .* another question"),
        (_version, r"task t is version 1\.0 in .*/a and 2\.0 in .*/b"),
        (_metrics, "task t has no metric that both logged"),
    ],
)
def test_other_tasks_or_samples_are_refused_by_the_first(
    tmp_path: Path, other: Any, told: str
) -> None:
    write_logs(tmp_path / "a", {"t": {"acc": [1.0] * 9}}, model="org/a")
    other(tmp_path)
    with pytest.raises(UnembedError, match=told) as caught:
        compare_logs(tmp_path / "a", tmp_path / "b")
    assert "\n" not in str(caught.value)


def test_a_run_is_kept_opened_and_drawn(tmp_path: Path) -> None:
    before = coins(50, 0.7, 1)
    scores = [{"t": {"acc": one}} for one in (before, flipped(before, 0.3, 2))]
    found = both(tmp_path, *scores)
    kept = compare_logs(tmp_path / "a", tmp_path / "b", resamples=200, out=tmp_path / "run")
    opened = load_run(tmp_path / "run")
    assert isinstance(opened, ComparedBenchmarks)
    assert opened == kept == found
    assert opened.table.equals(found.table)
    assert opened.table.num_rows == len(opened.samples_to_pandas()) == 50
    assert str(opened) == str(found)
    page = found.report(tmp_path / "page.html").read_text()
    assert found.verdict.sentence in page
    assert found.verdict.trust in page
