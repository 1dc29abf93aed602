from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from places import ROOT
from unembed.demo.story import bundled_model
from unembed.demo.text import Document
from unembed.errors import UnembedError
from unembed.models.checkpoint import Checkpoint, load
from unembed.signatures.alignment.align import align
from unembed.signatures.alignment.exact import exact_alignments
from unembed.signatures.reading.run import sketch
from unembed.signatures.reading.sketcher import SketchOptions
from unembed.signatures.verbalizers import Verbalizers
from unembed.text.corpus import Corpus
from unembed.text.rows import PromptCompletion


def example() -> ModuleType:
    path = ROOT / "examples" / "verbaliser_shift.py"
    spec = importlib.util.spec_from_file_location("verbaliser_shift", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


shift = example()
SETUP = shift.Setup(classes=3, prompts=12, steps=10, seeds=1)
TIED = ("random", "linear CKA", "label unigrams", "S(M)", "S(M), exact")


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load(bundled_model())


@pytest.fixture(scope="module")
def found() -> list[Document]:
    """Enough documents of three kinds that a line tells apart, without reading the library."""
    lines = {
        "test/test_a{}.py": "self.assertEqual(list(map(int, values)), [{}, 2, 3])\n",
        "doc:b{}": "Return a copy of the string with {} leading characters removed.\n\n",
        "idlelib/c{}.py": "    def event_{}(self, event=None):\n        self.text.bell()\n",
    }
    return [
        Document(name.format(i), "".join(line.format(i * j) for j in range(14)))
        for name, line in lines.items()
        for i in range(26)
    ]


@pytest.fixture(scope="module")
def halves(checkpoint: Checkpoint, found: list[Document]) -> list:
    prompts = shift.prompts_of(found, SETUP, 0)
    return [shift.Half.of(checkpoint, some, SETUP) for some in prompts]


@pytest.fixture(scope="module")
def measured(checkpoint: Checkpoint, found: list[Document]):
    return shift.measure(checkpoint, found, SETUP, 0)


def test_prompts_are_of_their_kind_and_of_one_half(found: list[Document]) -> None:
    first, second = shift.prompts_of(found, SETUP, 3)
    for half in (first, second):
        assert [kind for _, kind in half] == np.repeat([0, 1, 2], 12).tolist()
    names = [
        {next(d.name for d in found if text in d.text) for text, _ in half}
        for half in (first, second)
    ]
    assert not names[0] & names[1]
    assert all(len(text) <= shift.CHARACTERS for text, _ in first + second)
    assert shift.prompts_of(found, SETUP, 3) == [first, second]
    assert shift.prompts_of(found, SETUP, 4) != [first, second]


def test_what_is_identical_scores_one_for_every_pair_and_chooses_by_chance(measured) -> None:
    apart = ~np.eye(6, dtype=bool)
    for method in TIED[1:]:
        assert np.abs(measured.scores[method][apart] - 1).max() < shift.TIE / 10, method
    for method in TIED:
        line = shift.judged(method, [measured])
        assert line.top1 == pytest.approx([1 / 5] * 3)
        mean = [np.delete(measured.gains[:, t], t).mean() for t in range(6)]
        best = [np.delete(measured.gains[:, t], t).max() for t in range(6)]
        assert line.share[0] == pytest.approx(sum(mean) / sum(best))
        assert line.regret[0] == pytest.approx(np.mean(best) - np.mean(mean))
    for method in ("joint", "joint, exact", "gradient cosine"):
        assert np.ptp(measured.scores[method][apart]) > 1e-3, method


def test_the_oracle_chooses_best_and_the_words_that_agree_gain_most(measured) -> None:
    line = shift.judged("oracle", [measured])
    assert line.top1 == line.share == [1, 1, 1]
    assert line.regret == [0, 0, 0]
    rows = shift.by_matches([measured])
    assert [row["same"] for row in rows] == [0, 1]
    assert [row["pairs"] for row in rows] == [12, 18]
    for column in ("joint, all pairs", "gradient cosine, all pairs", "oracle"):
        assert rows[0][column] < rows[1][column], column


def test_a_choice_among_ties_is_their_mean() -> None:
    gains = np.array([1.0, 5.0, 3.0])
    assert shift.choose(np.array([0.1, 0.2, 0.3]), gains) == (0, 3)
    assert shift.choose(np.array([0.1, 0.3, 0.3 - 1e-9]), gains) == (0.5, 4)
    assert shift.choose(np.array([1.0, 1.0, 1.0]), gains) == (pytest.approx(1 / 3), 3)
    assert shift.choose(np.array([np.nan, 0.1, np.nan]), gains) == (1, 5)


def test_one_pass_for_all_tasks_is_a_sketch_of_each(checkpoint: Checkpoint, halves: list) -> None:
    tasks = SETUP.choice(0)
    together = shift.signatures_of(halves[0], tasks, checkpoint, SETUP)
    words = shift.WORDS[:3]
    answers = Verbalizers.of([(w, w) for w in words], restrict=True)
    options = SketchOptions(first_moment=True, blocks=0)
    corpus = halves[0].reading.windows.corpus
    ends = corpus.starts[1:] - 1
    prompts = [
        checkpoint.tokenizer.decode(corpus.ids[a:b])
        for a, b in zip(corpus.starts[:-1], ends, strict=True)
    ]
    kinds = [halves[0].ids.tolist().index(i) for i in corpus.ids[ends]]
    task = tasks[4]
    pairs = [PromptCompletion(p, words[task[k]]) for p, k in zip(prompts, kinds, strict=True)]
    alone = sketch(
        checkpoint,
        Corpus.from_pairs(pairs, checkpoint.tokenizer),
        options,
        task="alone",
        verbalizers=answers,
    )
    assert alone.identity == together[4].identity
    for kind in ("joint", "activation", "error"):
        ours, theirs = together[4].state.mean(kind), alone.state.mean(kind)
        assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max(), kind
    both = align([*together, alone])
    assert both.joint.value[4, -1] == pytest.approx(1, abs=1e-6)


def test_a_restricted_softmax_is_a_head_of_the_words_alone(halves: list) -> None:
    half = halves[0]
    task = (2, 0, 1)
    rows = shift.trained(half, task, SETUP)
    hidden, whole = half.samples.hidden, half.reading.head.weight.clone().requires_grad_()
    kept = torch.full((len(whole),), -torch.inf)
    kept[half.ids] = 0
    step = SETUP.rate / float(hidden.square().sum(1).mean())
    for _ in range(SETUP.steps):
        logits = hidden @ whole.T + kept
        (slope,) = torch.autograd.grad(cross_entropy(logits, half.targets(task)), whole)
        whole.data -= step * slope
    moved = (whole - half.reading.head.weight).abs().sum(1) > 0
    assert sorted(half.ids.tolist()) == moved.nonzero()[:, 0].tolist()
    assert torch.allclose(whole[half.ids], rows, atol=1e-5)

    tasks = SETUP.choice(0)
    few = shift.exact_of(half, tasks, SETUP)
    samples = [
        shift.replace(half.samples, name=shift.name(t, SETUP), targets=half.targets(t))
        for t in tasks
    ]
    masked = exact_alignments(samples, half.reading.head)
    for kind in ("joint", "error", "first_moment"):
        assert np.abs(few.pairs(kind).value - masked.pairs(kind).value).max() < 1e-6, kind


def test_a_full_softmax_is_another_sketch(
    checkpoint: Checkpoint, found: list[Document], halves: list
) -> None:
    setup = shift.replace(SETUP, softmax="full", steps=2)
    prompts = shift.prompts_of(found, setup, 0)[0]
    full = shift.Half.of(checkpoint, prompts, setup)
    assert torch.equal(full.samples.hidden, halves[0].samples.hidden)
    task = SETUP.choice(0)[:1]
    signatures = [
        shift.replace(shift.signatures_of(half, task, checkpoint, one)[0], name=one.softmax)
        for half, one in ((full, setup), (halves[0], SETUP))
    ]
    with pytest.raises(UnembedError, match="same answer tokens"):
        align(signatures)
    before, _ = shift.losses(full, full.reading.head.weight, task, setup)
    after, _ = shift.losses(full, shift.trained(full, task[0], setup), task, setup)
    assert after < before


@pytest.mark.parametrize("classes", [2, 3])
def test_from_a_flat_start_flipped_labels_score_alike_but_for_the_sign(
    checkpoint: Checkpoint, found: list[Document], classes: int
) -> None:
    setup = shift.replace(SETUP, classes=classes, start="flat")
    one = shift.measure(checkpoint, found, setup, 0)
    assert one.loss == pytest.approx(np.log(classes), abs=1e-6)
    apart = ~np.eye(len(one.tasks), dtype=bool)
    # The errors are 1/C - [the answer], whatever the prompt: only what goes with what differs.
    assert np.abs(one.scores["S(Γ), exact, all pairs"] - 1).max() < 1e-6
    signed = one.scores["gradient cosine, exact, all pairs"][apart]
    if classes == 2:
        for method in ("joint", "joint, exact", "joint, all pairs"):
            assert np.abs(one.scores[method][apart] - 1).max() < 1e-5, method
        assert np.abs(signed + 1).max() < 1e-6
        assert (one.gains[apart] < 0).all()
        assert (one.gains[~apart] > 0).all()
    else:
        rows = shift.by_matches([one])
        assert rows[0]["joint, all pairs"] < rows[1]["joint, all pairs"]
        assert signed.min() < 0


def test_the_tables_are_printed_and_written(
    found: list[Document],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "shift.json"
    monkeypatch.setattr(shift, "documents", lambda split: found if split == "train" else [])
    options = "--classes 3 --prompts 6 --steps 2 --seeds 2 --m 256"
    monkeypatch.setattr(sys, "argv", ["verbaliser_shift.py", *options.split(), "-o", str(out)])
    shift.main()
    said = capsys.readouterr().out
    kept = json.loads(out.read_text(encoding="utf-8"))
    assert kept["setup"]["m"] == 256
    methods = {line["method"]: line for line in kept["methods"]}
    assert methods["S(M)"]["top1"] == pytest.approx([0.2] * 3)
    assert methods["S(M)"]["range"] == pytest.approx([1, 1])
    assert methods["S(M)"]["unknown"] == 0
    assert all(f"\n{method} " in said for method in methods)
    assert "6 tasks, 5 sources each, 2 seeds; prompts [6, 6, 6]" in said


def test_the_same_seed_gives_the_same_scores(
    checkpoint: Checkpoint, found: list[Document], measured
) -> None:
    again = shift.measure(checkpoint, found, SETUP, 0)
    assert np.array_equal(again.gains, measured.gains)
    for method, scores in measured.scores.items():
        assert np.array_equal(again.scores[method], scores), method


def test_tasks_and_counts() -> None:
    assert SETUP.choice(0) == list(itertools.permutations(range(3)))
    some = shift.Setup(classes=5).choice(1)
    assert len(set(some)) == 24
    assert some == shift.Setup(classes=5).choice(1)
    assert shift.Setup(prompts=10, frequencies="unequal").counts == [16, 12, 8, 4]
