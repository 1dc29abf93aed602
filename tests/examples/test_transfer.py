"""The transfer benchmark: its text, its truth and its scores, on little of each."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from places import ROOT
from unembed.demo.gains import HeadTraining, head_gains, samples_loss, trained_head
from unembed.demo.story import bundled_model
from unembed.demo.text import Document
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.models.checkpoint import Checkpoint, load
from unembed.selection.transfer.judged import JudgedTransfer
from unembed.selection.transfer.verdicts import judge
from unembed.signatures.samples import Samples
from unembed.text.corpus import Corpus
from unembed.text.rows import PromptCompletion

sys.path.insert(0, str(ROOT / "examples" / "transfer"))
NAMES = (
    "domains",
    "kept",
    "network",
    "passages",
    "produced",
    "run",
    "strings",
    "tasks",
    "training",
)
domains, kept, network, passages, produced, run, strings, tasks, training = map(
    import_module, NAMES
)

SIZES = tasks.Sizes(400, 200)
SOME = ("number series", "character names", "entities")


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load(bundled_model())


@pytest.fixture(scope="module")
def some() -> list[Any]:
    every = dict(domains.sources(None))
    return [passages.Domain(name, tuple(every[name]())) for name in SOME]


@pytest.fixture(scope="module")
def read_tasks(checkpoint: Checkpoint, some: list[Any]) -> tuple[list[Any], Head]:
    return tasks.read(checkpoint, some, 0, SIZES, False)


def small(
    vocab: int = 11, dim: int = 5, positions: int = 40, seed: int = 0
) -> tuple[Samples, Head]:
    drawn = torch.Generator().manual_seed(seed)
    head = Head.from_parts(torch.randn(vocab, dim, generator=drawn))
    hidden = torch.randn(positions, dim, generator=drawn)
    targets = torch.randint(vocab, (positions,), generator=drawn)
    number = np.arange(positions)
    return Samples("small", hidden, targets, number, number), head


@pytest.mark.parametrize("optimizer", ["adamw", "gd"])
def test_a_head_trains_as_in_a_plain_loop(optimizer: str) -> None:
    samples, head = small()
    options = HeadTraining(steps=5, batch=40, rate=0.05, optimizer=optimizer)
    weight = head.weight.clone().requires_grad_()
    if optimizer == "gd":
        step = 0.05 / float(samples.hidden.square().sum(1).mean())
        plain: torch.optim.Optimizer = torch.optim.SGD([weight], step)
    else:
        plain = torch.optim.AdamW([weight], 0.05, weight_decay=0)
    for _ in range(5):
        plain.zero_grad()
        cross_entropy(samples.hidden @ weight.T, samples.targets).backward()
        plain.step()
    before = head.weight.clone()
    got = trained_head(samples, head, options)
    assert torch.allclose(got.weight, weight.detach(), atol=1e-5)
    assert torch.equal(head.weight, before)
    want = float(cross_entropy(samples.hidden @ weight.detach().T, samples.targets))
    assert samples_loss(samples, got) == pytest.approx(want, abs=1e-5)


def test_gains_are_losses_before_less_losses_after_of_the_right_pair() -> None:
    a, head = small()
    b = replace(small(seed=1)[0], name="other")
    options = HeadTraining(steps=20, batch=8, rate=0.05)
    gains = head_gains([a, b], [a, b], head, options)
    for i, source in enumerate((a, b)):
        for j, target in enumerate((a, b)):
            want = samples_loss(target, head) - samples_loss(
                target, trained_head(source, head, options)
            )
            assert gains[i, j] == pytest.approx(want, abs=1e-9)
    assert (np.diag(gains) > 0).all()
    assert np.array_equal(gains, head_gains([a, b], [a, b], head, options))
    again = head_gains([a, b], [a, b], head, replace(options, seed=1))
    assert not np.array_equal(gains, again)
    assert not head_gains([a], [b], head, replace(options, steps=0)).any()


def test_training_that_cannot_be_is_refused() -> None:
    samples, head = small()
    for given, said in (
        ({"steps": -1}, "steps is -1"),
        ({"batch": 0}, "batch is 0"),
        ({"rate": 0.0}, "rate 0.0 moves nothing"),
    ):
        with pytest.raises(UnembedError, match=said):
            HeadTraining(**given)
    with pytest.raises(UnembedError, match="not finite at rate 1e\\+38"):
        trained_head(samples, head, HeadTraining(3, 8, 1e38, "gd"))


def test_passages_are_short_whole_lines_of_their_text() -> None:
    text = "".join(f"line {i} of a text that is read\n" for i in range(90)) + "x" * 2_000
    found = passages.passages(text)
    assert max(map(len, found)) <= passages.CHARACTERS
    assert "".join(found) == text
    assert passages.passages("short") == []


def test_no_document_lies_on_both_sides_and_a_seed_draws_others(
    checkpoint: Checkpoint, some: list[Any]
) -> None:
    domain = some[0]
    tokenizer = checkpoint.tokenizer
    one, same, other = (passages.split(domain, tokenizer, seed, 400, 200) for seed in (0, 0, 1))
    assert not set(one.train.names) & set(one.heldout.names)
    assert one.train.digest == same.train.digest
    assert one.train.digest != other.train.digest
    assert one.train.tokens - one.train.rows >= 400
    assert one.heldout.tokens - one.heldout.rows >= 200
    assert max(np.diff(one.train.starts)) <= passages.TOKENS + 5
    copies = tuple(replace(d, name=f"{d.name} again") for d in domain.documents)
    twice = passages.Domain("twice", (*domain.documents, *copies))
    assert passages.split(twice, checkpoint.tokenizer, 0, 400, 200).train.digest == one.train.digest
    with pytest.raises(
        passages.TooLittleError, match=r"positions as training text of .*, 10,000,050 needed"
    ):
        passages.split(domain, checkpoint.tokenizer, 0, 10_000_000, 200)
    with pytest.raises(
        passages.TooLittleError, match="2 documents as held-out text of few, 6 needed"
    ):
        passages.split(
            passages.Domain("few", domain.documents[:6]), checkpoint.tokenizer, 0, 400, 200
        )


def test_domains_are_of_their_kind() -> None:
    every = dict(domains.sources(None))
    assert len(every) >= 16
    series = {d.name: d.text for d in produced.number_series()}
    assert series["primes/0"].startswith("primes from 0: 2 3 5 7 11 13 17")
    assert series["squares/1"].startswith("squares from 40: 1600 1681")
    assert series["collatz/0"].startswith("orbits of 27: 27 82 41")
    names = "".join(d.text for d in every["character names"]())
    assert "00E9;LATIN SMALL LETTER E WITH ACUTE;Ll\n" in names
    code = [Document("a.py", "def double(x):\n    return 2 * x\n" * 40)]
    assert "RETURN_VALUE" in next(produced.disassembly(code)).text
    members = [Document("c.py", "x in {'b', 'a', 'd', 'c'}\n" * 40)]
    assert "frozenset({'a', 'b', 'c', 'd'})" in next(produced.disassembly(members)).text
    assert "FunctionDef" in next(produced.syntax_trees(code)).text
    assert next(produced.syntax_trees([Document("b.py", "def (")]), None) is None


def test_what_differs_from_run_to_run_is_left_out_of_logs() -> None:
    said = "@@ one\nat 0x7f12ab34cd56\nRan 3 in 0.123s\n@@ two\n"
    command = f"import sys; sys.stderr.write({said!r})"
    one, two = produced._marked([sys.executable, "-c", command])
    assert one.name == "one"
    assert one.text == "at 0x7f0000000000\nRan 3 in 0.010s\n"
    assert two.name == "two"


def test_wikitext_is_cut_at_titles(tmp_path: Path) -> None:
    file = tmp_path / "wiki"
    file.write_text(" = One = \n first\n = = Part = = \n more\n = Two = \n second\n")
    found = list(domains.wikitext(file))
    assert [d.name for d in found[1:]] == ["= One =", "= Two ="]
    assert "more" in found[1].text


def test_what_was_kept_is_not_done_again(
    checkpoint: Checkpoint,
    read_tasks: tuple[list[Any], Head],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, head = read_tasks
    few = (checkpoint, found[:2], head)
    lora = training.LoraTraining(steps=2, rate=1e-3)
    first = training.measure(*few, lora, 0, ("loss",), tmp_path, False)
    assert first.gains.shape == (2, 2)
    assert np.isfinite(first.gains).all()
    assert first.gains.any()
    count: list[int] = []
    real = training._by_lora

    def counted(*given: Any) -> training.Outcome:
        count.append(1)
        return real(*given)

    monkeypatch.setattr(training, "_by_lora", counted)
    (tmp_path / "seed-0" / "lora" / f"{SOME[1]}.json").unlink()
    again = training.measure(*few, lora, 0, ("loss",), tmp_path, False)
    assert len(count) == 1
    assert np.array_equal(again.gains, first.gains)
    place = tmp_path / "seed-0" / "lora" / f"{SOME[0]}.json"
    assert kept.kept(place, ["another key"], lambda: "done anew") == "done anew"
    assert kept.kept(place, ["another key"], lambda: "not done") == "done anew"


def test_strings_are_balanced_for_every_property() -> None:
    said, thirds = strings.balanced(300, 0)
    assert len(set(said)) == 300
    assert all(len(s) <= strings.LONGEST for s in said)
    assert all(s.count("(") == s.count(")") and s.count("1") % 2 == 0 for s in said)
    shares = np.stack([(thirds == i).mean(0) for i in range(3)])
    assert shares.min() > 0.25
    assert shares.max() < 0.42
    assert strings.balanced(300, 0)[0] == said
    assert strings.balanced(300, 1)[0] != said
    read = strings.PROPERTIES
    assert read["rings"]("CC1CCNC1") == 1
    assert read["depth"]("C(C(N)C)CO") == 2
    assert read["longest chain"]("CC(CNCC)=O") == 4
    assert read["nitrogen over oxygen"]("CNNO") == 1


def test_states_of_strings_go_with_their_answers(checkpoint: Checkpoint) -> None:
    found = strings.Strings.of(checkpoint, 24, 0)
    said, thirds = strings.balanced(24, 0)
    alone = checkpoint.tokenizer(said[7] + strings.ENDING, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        states = checkpoint.model(alone, output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(states[0, -1], found.hidden[7], atol=1e-4)
    assert np.array_equal(found.tasks[0].labels, thirds[:, 0])
    assert np.array_equal(found.tasks[1].labels, (thirds[:, 0] + 1) % 3)


def test_the_whole_of_it_is_measured_kept_and_printed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    little = replace(
        run.Setup.quick(),
        domains=SOME,
        sizes=SIZES,
        head=HeadTraining(3, 128, 1.0, "gd"),
        lora=training.LoraTraining(steps=1),
        curve=(200,),
        baselines=("unigram", "unigram_loss", "random"),
        models=("loss",),
        network=network.NetworkSetup(64, ("token",), adapters=("fresh",)),
        subsets=2,
        strings=60,
        word_training=HeadTraining(5, 1_000, 1.0, "gd"),
    )
    monkeypatch.setattr(run.Setup, "quick", staticmethod(lambda: little))
    few = dict(list(strings.PROPERTIES.items())[:3])
    monkeypatch.setattr(strings, "PROPERTIES", few)
    command = ["run.py", "--quick", "--m", "256", "-o", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    run.main()
    said = capsys.readouterr().out
    for how, count in (("head", 3), ("lora", 3), ("strings", 6)):
        done = JudgedTransfer.load(tmp_path / "out" / how)
        assert done.transfer.gains.shape == (1, count, count)
        assert done.verdicts == judge(done.transfer)
        by_name = {one.method: one for one in done.verdicts}
        assert by_name["oracle"].regret.value == 0
        assert by_name["chance"].top1.value == pytest.approx(1 / (count - 1))
        assert all(f"\n{method} " in said for method in by_name)
    measured = {
        one.method: one for one in JudgedTransfer.load(tmp_path / "out" / "lora").transfer.scores
    }
    depths = [measured[f"joint depth:{n}, token"].values for n in range(5)]
    assert measured["joint profile, token"].values == pytest.approx(np.mean(depths, 0), nan_ok=True)
    assert measured["joint head, token"].bytes == 256
    # The mean gradient of the body is that of its modules, of which projections keep the angles.
    exact = measured["step of the body, exact"].values
    assert {"joint full of fresh adapters", "adapter's step"} <= measured.keys()
    assert (np.diagonal(exact[0]) > 0).all()
    halves = json.loads((tmp_path / "out" / "lora-subsets.json").read_text())
    assert {"gains of each", "joint full, token"} <= {one["method"] for one in halves}
    # All tasks on strings read the same states.
    scores = {one.method: one.values for one in done.transfer.scores}
    assert np.abs(scores["activation, plug-in"] - 1).max() < 1e-9
    head = JudgedTransfer.load(tmp_path / "out" / "head").transfer
    costs = {one.method: one for one in head.scores}
    assert costs["joint"].bytes == 1024
    assert costs["proxy"].bytes == 2048
    assert (costs["joint"].seconds or 0) > 0
    monkeypatch.setattr(sys, "argv", [*command, "--json", "--settings", "head"])
    run.main()
    plain = json.loads(capsys.readouterr().out)
    assert [one["method"] for one in plain["verdicts"]] == [one.method for one in head.scores]


def test_an_adapter_s_step_is_the_fall_of_loss_to_first_order(
    checkpoint: Checkpoint, read_tasks: tuple[list[Any], Head], tmp_path: Path
) -> None:
    found, head = read_tasks
    few, lora = found[:2], training.LoraTraining(steps=2, rate=3e-5)
    training.measure(checkpoint, few, head, lora, 0, (), tmp_path, False)
    place = tmp_path / "seed-0" / "lora"
    step, cosine, *_ = network.adapter_steps(checkpoint, few, head, lora, place)
    # As a loss falls on the text itself; that of another text is of another gradient.
    scoped = training.adapted(checkpoint, [few[0].text.train], head, lora, 0)
    after = Checkpoint("after", training.plain_model(scoped).eval(), checkpoint.tokenizer)
    for t, task in enumerate(few):
        rows = list(training.every_row(task.text.train, 8))
        fall = nats(checkpoint.model, rows) - nats(after.model, rows)
        assert step.values[0, t] == pytest.approx(fall, rel=0.05, abs=1e-6)
    assert (np.abs(cosine.values) <= 1).all()
    assert step.values[0, 0] > step.values[1, 0]


@torch.no_grad()
def nats(model: Any, rows: list[tuple[torch.Tensor, ...]]) -> float:
    total, count = 0.0, 0
    for ids, targets, real in rows:
        total += float(cross_entropy(model(ids).logits[real].double(), targets, reduction="sum"))
        count += len(targets)
    return total / count


def test_adapters_are_trained_on_completions_alone_where_there_are_any(
    checkpoint: Checkpoint,
) -> None:
    said = [("def f(x):\n    return", " x"), ("import", " os\nimport sys")]
    text = Corpus.from_pairs([PromptCompletion(*one) for one in said], checkpoint.tokenizer)
    [(ids, targets, real)] = training.every_row(text, 2)
    counted = [checkpoint.tokenizer(words)["input_ids"] for _, words in said]
    assert targets.tolist() == [token for row in counted for token in row]
    assert real.sum(1).tolist() == [len(row) for row in counted]
    rows = [text.ids[a:b].tolist() for a, b in zip(text.starts[:-1], text.starts[1:], strict=True)]
    for row, whole, where in zip(ids.tolist(), rows, real.tolist(), strict=True):
        assert row[: len(whole) - 1] == whole[:-1]
        assert where.index(True) == len(whole) - 1 - sum(where)
