"""A model that processes hold together is measured as one process measures it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers as tf
from safetensors.numpy import load_file
from torch.distributed import HashStore

import split_work
from command_line import Run
from made_up.corpora import TEXTS
from made_up.models import SMALL
from places import ROOT
from runs.test_many_ranks import files, torchrun
from unembed.errors import UnembedError
from unembed.models.adapters import load_whole
from unembed.models.checkpoint import load
from unembed.models.devices import placement, tensor_parallel
from unembed.runs import ranks as ranks_module
from unembed.runs.ranks import Ranks, joined


@pytest.fixture(scope="module")
def models(checkpoint: Callable[..., Path], tokenizer: Any, llama: Any) -> tuple[Path, Path]:
    """A Qwen3 whose head is tied, with norms of its keys, and a Llama whose head is not."""
    torch.manual_seed(1)
    small = {**SMALL, "vocab_size": llama.config.vocab_size, "tie_word_embeddings": True}
    config = tf.Qwen3Config(**small, head_dim=8, initializer_range=0.2)
    return checkpoint(tf.Qwen3ForCausalLM(config).eval()), checkpoint(llama)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(TEXTS[::2]))
    return path


@pytest.fixture(scope="module")
def by_team(
    models: tuple[Path, Path], text: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What two processes that hold each model together wrote."""
    out = tmp_path_factory.mktemp("team")
    done = torchrun(2, ROOT / "tests" / "split_work.py", *models, text, out)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def columns(folder: Path) -> dict[str, np.ndarray]:
    table = pa.concat_tables(map(pq.read_table, sorted((folder / "tokens").iterdir())))
    plain = [name for name in table.column_names if not pa.types.is_nested(table[name].type)]
    return {name: table[name].to_numpy() for name in plain}


def test_two_processes_that_hold_a_model_find_what_one_finds(
    models: tuple[Path, Path], text: Path, by_team: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    split_work.measure(*models, text, tmp_path)
    assert json.loads((tmp_path / "facts.json").read_text()) == json.loads(
        (by_team / "facts.json").read_text()
    )
    for run in ("audit", "live/before", "live/after"):
        alone, together = columns(tmp_path / run), columns(by_team / run)
        clear = alone["margin"] > 1e-4
        assert clear.mean() > 0.9
        for name, values in alone.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(values, together[name], rtol=1e-5, atol=2e-5)
            elif name == "rank":
                assert np.abs(values - together[name]).max() <= 1
                assert (values != together[name]).mean() < 0.02
            else:
                np.testing.assert_array_equal(values[clear], together[name][clear])
    one, two = (load_file(run / "audit" / "signature.safetensors") for run in (tmp_path, by_team))
    assert set(one) == set(two)
    for name, values in one.items():
        apart = np.abs(values.astype(float) - two[name].astype(float)).max(initial=0)
        assert apart <= 1e-5 * max(1.0, np.abs(values.astype(float)).max(initial=0)), name


@pytest.mark.slow
def test_several_teams_write_the_bytes_of_one(
    models: tuple[Path, Path], text: Path, by_team: Path, tmp_path: Path
) -> None:
    done = torchrun(4, ROOT / "tests" / "split_work.py", *models, text, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    one, several = files(by_team), files(tmp_path)
    assert set(several) == set(one)
    assert [name for name in one if several[name] != one[name]] == []


@pytest.fixture
def in_teams(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let this process be one of a launch whose teams have so many."""

    def set_size(size: int) -> None:
        ranks = Ranks(0, size, tensor=size)
        monkeypatch.setattr(placement, "current_ranks", lambda: ranks)

    return set_size


@pytest.mark.parametrize(
    ("made", "processes", "line"),
    [
        (
            lambda: tf.GPT2LMHeadModel(
                tf.GPT2Config(vocab_size=300, n_embd=32, n_layer=1, n_head=4)
            ),
            2,
            r"GPT2LMHeadModel, for which transformers has no plan .* leave --tp out",
        ),
        (
            lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL)),
            4,
            r"2 key-value heads, which 4 processes cannot share evenly: give --tp 2$",
        ),
        (
            lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL)),
            3,
            r"4 attention heads, which 3 processes cannot share evenly: give --tp 2$",
        ),
        (
            lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**{**SMALL, "num_key_value_heads": 1})),
            2,
            r"1 key-value heads, which 2 processes cannot share evenly: leave --tp out$",
        ),
        (
            lambda: tf.MixtralForCausalLM(
                tf.MixtralConfig(**{**SMALL, "intermediate_size": 63}, num_local_experts=2)
            ),
            2,
            r"63 columns in each expert, which 2 processes cannot share evenly: leave --tp out$",
        ),
    ],
    ids=["no plan", "key-value heads", "heads", "one key-value head", "experts"],
)
def test_a_model_that_cannot_be_split_is_refused_before_its_weights_are_read(
    made: Callable[[], Any],
    processes: int,
    line: str,
    checkpoint: Callable[..., Path],
    in_teams: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = checkpoint(made())
    in_teams(processes)
    monkeypatch.setattr(tf.PreTrainedModel, "_load_pretrained_model", None)
    with pytest.raises(UnembedError, match=line):
        load(folder)


def test_a_plan_that_fits_is_not_refused() -> None:
    for config in (tf.LlamaConfig(**SMALL), tf.MixtralConfig(**SMALL, num_local_experts=4)):
        tensor_parallel.refuse_unsplit("it", config, tf.AutoModelForCausalLM, 2)


def test_what_is_not_split_is_refused(
    in_teams: Callable[[int], None], llama_folder: Path, tmp_path: Path
) -> None:
    in_teams(2)
    with pytest.raises(UnembedError, match=r"^--device cuda:1 does not go with --tp"):
        load(llama_folder, device="cuda:1")
    with pytest.raises(UnembedError, match=r"--device-map spreads .* 2 processes were launched"):
        load(llama_folder, device_map="auto")
    with pytest.raises(UnembedError, match=r"^it holds weights in the format gptq, which --tp"):
        placement.Placement.of(None, None).loading("it", None, None, "gptq")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UnembedError, match="holds an adapter, which --tp puts in no place"):
        load_whole(tmp_path)


def test_a_model_that_does_not_run_as_it_is_split_is_refused(llama: Any) -> None:
    class Broken(torch.nn.Module):
        _tp_size, device = 2, torch.device("cpu")

        def forward(self, **_given: Any) -> None:
            raise RuntimeError("shape '[2, -1]' is invalid\nand more")

    line = r"^it: Broken does not run .* over 2 processes \(shape '\[2, -1\]' is invalid\)"
    with pytest.raises(UnembedError, match=line):
        tensor_parallel.refuse_unrunnable("it", Broken())


@pytest.fixture
def of_four(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranks]:
    ranks = Ranks(2, 4, store=HashStore())
    token = ranks_module._CURRENT.set(ranks)
    yield ranks
    ranks_module._CURRENT.reset(token)


def test_processes_make_teams_of_the_size_that_is_asked_for(of_four: Ranks) -> None:
    with ranks_module.tensor_parallel(2) as two:
        assert (two.team, two.teams, two.place, two.writes) == (1, 2, 0, True)
        assert ranks_module.current_ranks() is two
    with ranks_module.tensor_parallel() as four:
        assert (four.team, four.teams, four.place, four.writes) == (0, 1, 2, False)
    assert ranks_module.current_ranks() is of_four
    with (
        pytest.raises(UnembedError, match=r"^--tp 8 is more than the 4 processes"),
        ranks_module.tensor_parallel(8),
    ):
        pass
    with (
        pytest.raises(UnembedError, match="4 processes do not make teams of 3"),
        ranks_module.tensor_parallel(3),
    ):
        pass


def test_tp_without_a_launch_and_with_a_wrong_word_is_refused_in_one_line(
    run: Run, llama_folder: Path, text: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "run")
    given = ("audit", str(llama_folder), str(text), "-o", out, "--quiet")
    assert "--tp holds a model on several processes, and there is one" in run(*given, "--tp").line
    assert "'two' is no number of processes" in run(*given, "--tp", "two").line
    assert not Path(out).exists()
    with joined():
        assert run(*given, "--tp", "0").line.startswith("Invalid value for '--tp'")
