"""What is foretold of a run: against counts by hand, the plan's own blocks, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from command_line import Run
from made_up.models import ARCHITECTURES, SMALL
from unembed.decisions.layers.columns import bytes_a_position
from unembed.decisions.layers.options import LayersOptions
from unembed.decisions.measure import ColumnChoice
from unembed.errors import UnembedError
from unembed.models.checkpoint import load_tokenizer
from unembed.models.costs import probe
from unembed.models.costs.cost import cost
from unembed.models.costs.kinds import KINDS
from unembed.models.costs.model_work import ModelWork
from unembed.models.costs.record import Cost, in_time
from unembed.models.costs.text_size import TextSize
from unembed.text.batches import BatchPlan, batches, parts
from unembed.text.corpus import Corpus
from unembed.text.windows import Windows

LARGE: dict[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 16_384,
    "intermediate_size": 65_536,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "dtype": "bfloat16",
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two wide blocks and a head, 12 billion parameters, as a configuration and nothing else."""
    folder = tmp_path_factory.mktemp("large")
    tf.LlamaConfig(**LARGE, num_hidden_layers=2).save_pretrained(folder)
    return folder


def test_operations_are_those_of_every_matrix_and_of_every_pair_of_tokens() -> None:
    config = tf.LlamaConfig(**SMALL)
    work = ModelWork.of("a model", config)
    wide, inner, blocks = 32, 64, 2
    keys = wide // 2
    of_block = 2 * wide * wide + 2 * wide * keys + 3 * wide * inner
    assert work.flops == 2 * blocks * of_block
    # Every query with the keys, then the values, of the half of a row that it may see.
    assert work.attention_flops == 0.5 * 4 * blocks * wide
    assert work.body_flops(10.0) == work.flops + 10 * work.attention_flops


def test_experts_that_are_not_chosen_cost_nothing() -> None:
    few, many = (
        ModelWork.of("a model", tf.MixtralConfig(**SMALL, num_local_experts=n)) for n in (4, 32)
    )
    router = 2 * 2 * 32 * (32 - 4)
    assert many.flops - few.flops == router
    assert many.parameters > 3 * few.parameters
    twice = tf.MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=4)
    of_one = 2 * 2 * 3 * 32 * 64
    assert ModelWork.of("a model", twice).flops - few.flops == 2 * of_one


@pytest.mark.parametrize("name", ["gemma3", "gpt2", "opt", "qwen3", "qwen3_next"])
def test_sizes_are_those_of_the_model_itself(name: str) -> None:
    model = ARCHITECTURES[name]()
    work, head = ModelWork.of(name, model.config), model.get_output_embeddings().weight
    assert work.parameters == sum(one.numel() for one in model.parameters())
    assert (work.rows, work.width) == tuple(head.shape)
    assert work.tied == (model.get_input_embeddings().weight is head)
    assert work.dtype == torch.float32
    assert 0 < work.flops < 4 * work.parameters
    assert work.state_bytes >= 4 * model.config.hidden_size


def test_states_take_what_lies_between_the_widest_products() -> None:
    narrow, wide = (
        ModelWork.of("a model", tf.LlamaConfig(**{**SMALL, "intermediate_size": n}))
        for n in (1024, 4096)
    )
    # The gate, what its activation makes of it, and the product of both are held at once.
    assert 2 * 4 * 3072 <= wide.state_bytes - narrow.state_bytes <= 3 * 4 * 3072
    half = ModelWork.of("a model", tf.LlamaConfig(**SMALL), "bfloat16")
    assert half.state_bytes < 0.7 * ModelWork.of("a model", tf.LlamaConfig(**SMALL)).state_bytes


@pytest.mark.parametrize("context", [16, 64])
def test_a_text_is_cut_as_a_run_cuts_it(llama_folder: Path, tmp_path: Path, context: int) -> None:
    text = tmp_path / "text.txt"
    lines = [" ".join(["one two three four five"] * n) for n in (1, 3, 30, 2, 8, 8, 1, 5) * 5]
    text.write_text("\n".join([*lines[:9], "", *lines[9:]]))
    plan = BatchPlan()
    found = TextSize.of(str(text), str(llama_folder), context, plan)
    windows = Windows.of(Corpus.read(text, load_tokenizer(llama_folder)), context)
    assert found.exact
    assert found.positions == windows.positions
    assert found.windows == len(windows.length)
    assert found.rows == len(lines)
    blocks = [
        block
        for part in parts(windows, plan.part_positions)
        for batch in batches(windows, part, plan)
        for block in batch.blocks
    ]
    assert found.block == pytest.approx(windows.positions / len(blocks), rel=0.1)
    padded = sum(block.input_ids.numel() for block in blocks)
    assert found.padding == pytest.approx(padded / windows.positions, rel=0.1)


def test_a_long_text_is_judged_by_its_beginning(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(["one two three four five six seven"] * 500))
    whole = TextSize.of(str(text), str(llama_folder), 64, BatchPlan())
    monkeypatch.setattr("unembed.models.costs.text_size.COUNTED_CHARACTERS", 1000)
    some = TextSize.of(str(text), str(llama_folder), 64, BatchPlan())
    assert whole.exact
    assert not some.exact
    assert some.tokens == pytest.approx(whole.tokens, rel=0.01)
    assert some.windows == whole.windows


def test_tables_are_as_wide_as_the_verbs_make_them() -> None:
    """The rooms that make them lie above this one, which therefore repeats their numbers."""
    layers, options = KINDS["layers"], LayersOptions()
    assert KINDS["audit"].row_bytes == ColumnChoice().bytes_a_position
    assert layers.depth_row_bytes == layers.depth_products * bytes_a_position(options.top_k)
    assert layers.most_positions == options.max_positions
    assert layers.part_positions == options.part_positions


def seconds_by(found: Cost, who: str) -> float:
    return sum(term.seconds for term in found.terms if term.by == who)


def test_ranks_share_what_they_share_and_repeat_the_rest(large: Path) -> None:
    given = {"device": "h100", "part_positions": 1000}
    one, four = (cost(str(large), "16016000", ranks=n, **given) for n in (1, 4))  # type: ignore[arg-type]
    assert one.positions == 15_999_984
    assert seconds_by(four, "shared") == pytest.approx(seconds_by(one, "shared") / 4, rel=1e-3)
    assert seconds_by(four, "first rank alone") == seconds_by(one, "first rank alone")
    assert seconds_by(four, "each rank") > seconds_by(one, "each rank")  # the launcher
    assert one.disk_bytes == four.disk_bytes
    assert one.memory == four.memory
    assert four.low < four.seconds < four.high
    # Three parts on two ranks take as long as two on one.
    uneven = cost(str(large), "3e5", ranks=2, device="h100", part_positions=100_000)
    alone = cost(str(large), "3e5", device="h100", part_positions=100_000)
    assert seconds_by(uneven, "shared") == pytest.approx(seconds_by(alone, "shared") * 2 / 3)


def test_what_does_not_fit_says_what_does(large: Path) -> None:
    assert cost(str(large), "1e9", device="h100").fits
    found = cost(str(large), "1e9", device="rtx4090", ranks=8)
    assert not found.fits
    assert found.fitting_tp is not None
    assert found.fitting_tp > 1
    assert "does not fit in the 24.0\u00a0GB of one RTX 4090" in found.verdict
    assert f"give --tp {found.fitting_tp}." in found.verdict
    split = cost(str(large), "1e9", device="rtx4090", ranks=8, tp=found.fitting_tp)
    assert split.fits
    assert "8 × RTX 4090" in split.verdict
    assert "exchange" in [term.name for term in split.terms]
    assert split.memory[0].bytes == found.memory[0].bytes / found.fitting_tp


def test_a_float32_model_takes_float32_products(large: Path) -> None:
    narrow, wide = (cost(str(large), "1e9", device="h200", dtype=d) for d in ("auto", "float32"))
    body = [{term.name: term.seconds for term in one.terms}["body"] for one in (narrow, wide)]
    assert body[1] / body[0] == pytest.approx(989 / 67, rel=0.02)


@pytest.mark.parametrize("run_of", list(KINDS))
def test_this_machine_is_measured_at_the_models_shapes(
    run_of: str, llama_folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "LEAST_SECONDS", 0.003)
    text = tmp_path / "text.txt"
    text.write_text("\n".join(["one two three four five"] * 60))
    said = run("check", llama_folder, "--cost", text, "--run", run_of, "--device", "cpu", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["verdict"].startswith(("A ", "An "))
    terms = {term["name"]: term["seconds"] for term in found["terms"]}
    for name in ("body", "head pass", "start", "reading"):
        assert 0 < terms[name] < 60, name
    assert found["low"] < sum(terms.values()) < found["high"]
    assert found["device_memory"] is None
    assert found["text"]["exact"]


def test_a_body_too_large_to_be_made_is_measured_by_fewer_blocks_or_by_its_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "LEAST_SECONDS", 0.003)
    config = tf.LlamaConfig(**{**SMALL, "num_hidden_layers": 6})
    work, place = ModelWork.of("a model", config), torch.device("cpu")
    body, share = probe._some_of(work, config, place)
    assert body is not None
    assert share == 1.0
    monkeypatch.setattr(probe, "MOST_NUMBERS", 25_000)
    body, share = probe._some_of(work, config, place)
    assert body is not None
    assert share == 3.0
    monkeypatch.setattr(probe, "MOST_NUMBERS", 100)
    assert probe._some_of(work, config, place) == (None, 1.0)
    rates = probe.measured(work, config, 32.0, 64, place)
    assert rates.body > 0
    assert rates.body_block == 0.0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("--cost", "1e9", "--device", "tpu"),
            "--device 'tpu' has no published rates here: give h",
        ),
        (("--cost", "1e9", "--device", "h100", "--ranks", "0"), "--ranks 0 is no number"),
        (("--cost", "1e9", "--device", "h100", "--ranks", "8", "--tp", "3"), "give 6 or 9"),
        (("--cost", "1e9", "--device", "h100", "--ranks", "3", "--tp", "3"), "64 attention heads"),
        (("--cost", "1e5", "--device", "h100", "--ranks", "8"), "give at most --ranks 4"),
        (("--cost", "1e9", "--device", "h100", "--run", "dose"), "--run 'dose' is none of audit"),
        (("--cost", "1e9", "--device", "h100", "--context", "9000"), "give 2 to the 8,192"),
        (("--cost", "1", "--device", "h100"), "--cost 1 is no number of tokens"),
        (("--cost", "-5", "--device", "h100"), "--cost -5 is no number of tokens"),
        (("--cost", "1e-3", "--device", "h100"), "--cost 1e-3 is no number of tokens"),
        (("--cost", "nan", "--device", "h100"), "--cost nan is no number of tokens"),
        (("--cost", "-inf", "--device", "h100"), "--cost -inf is no number of tokens"),
        (("--cost", "1e9", "--device", "h100", "--part-positions", "0"), "at least 1, got 0"),
        (("--cost", "nothing.txt", "--device", "h100"), "nothing.txt: no such file"),
        (("--cost", "1e9", "--quantize", "int8"), "--quantize int8 has no cost of its own"),
        (("--ranks", "8"), "--ranks 8 is of a cost: add --cost"),
        (("--run", "audit"), "--run audit is of a cost: add --cost"),
    ],
)
def test_what_cannot_be_foretold_is_refused_in_a_line(
    given: tuple[str, ...], said: str, large: Path, run: Run
) -> None:
    ended = run("check", large, *given)
    assert ended.code == 2
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_text_without_a_tokenizer_and_a_configuration_without_a_model_are_refused(
    large: Path, tmp_path: Path, run: Run
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one two three")
    ended = run("check", large, "--cost", text, "--device", "h100")
    assert ended.code == 2
    assert "give a number of tokens in place of the text (1e9)" in ended.err
    for number, config in enumerate(("{}", '{"model_type": "llama", "hidden_size": "wide"}')):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text(config)
        ended = run("check", folder, "--cost", "1e9", "--device", "h100")
        assert ended.code == 2
        assert len(ended.err.splitlines()) == 1
        assert str(folder) in ended.err
    with pytest.raises(UnembedError, match=r"holds no config\.json"):
        cost(str(tmp_path), "1e9", device="h100")


def test_durations_have_two_units_at_most() -> None:
    seconds = (0.02, 4.24, 41.7, 200.0, 2_700.0, 7_500.0, 273_600.0)
    words = ("0.02 s", "4.2 s", "42 s", "3 min 20 s", "45 min", "2 h 05 min", "3 d 4 h")
    assert tuple(map(in_time, seconds)) == words
