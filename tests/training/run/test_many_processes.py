"""A refinement by the processes of a launch: weights, audits and what goes on after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from conftest import train_tokenizer
from made_up.models import small_model
from unembed.errors import UnembedError
from unembed.models.checkpoint import Checkpoint
from unembed.runs.manifest import verified_run
from unembed.runs.ranks import Ranks, joined
from unembed.text.corpus import Corpus
from unembed.training.recipe.protection import Protection
from unembed.training.recipe.recipe import Budget, Recipe
from unembed.training.run import processes
from unembed.training.run.heldout_check import StopCallback
from unembed.training.run.refinement import Refinement, refine

TEXTS = [f"the {one} is {two} and {three}" for one in "abcde" for two in "de" for three in "fg"]
"""Sixteen of them to train on: whole batches for one process and for two."""
RECIPES = {
    "ddp": Recipe(budget=Budget(nll=9.0), accumulation=2),
    "fsdp": Recipe(protection=Protection(ewc=30.0, kl=0.1), budget=Budget(nll=9.0)),
}
SMALL: dict[str, Any] = {
    "steps": 5,
    "watch_every": 2,
    "batch_size": 4,
    "learning_rate": 3e-3,
    "context": 12,
    "watch_positions": 40,
    "audit_positions": 40,
}


def refined(mode: str, out: Path) -> Refinement:
    tokenizer = train_tokenizer(TEXTS, 290)
    given = Checkpoint("tiny", small_model("llama"), tokenizer)
    corpus = Corpus.from_texts(TEXTS, tokenizer)
    return refine(given, corpus, replace(RECIPES[mode], **SMALL), out=out / mode)


def shard_on_cpus() -> None:
    """Have accelerate shard by FSDP from here on, as it does on GPUs; it has none on a CPU."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    os.environ["FSDP_AUTO_WRAP_POLICY"] = "TRANSFORMER_BASED_WRAP"
    plain = PartialState.__init__

    def begun(state: Any, *args: Any, **how: Any) -> None:
        plain(state, *args, **how)
        if state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = begun


def killed_after(steps: int) -> Any:
    """The plain callback, in whose place one ends the run after a checkpoint."""
    plain = StopCallback.on_save

    def ended(callback: StopCallback, args: Any, state: Any, control: Any, **given: Any) -> None:
        plain(callback, args, state, control, **given)
        if state.global_step == steps:
            raise InterruptedError

    StopCallback.on_save = ended  # type: ignore[method-assign]
    return plain


def refine_together(out: Path) -> None:
    """What each process of the launch does; those of FSDP are ended half-way, and begin again."""
    with joined():
        for mode in RECIPES:
            if mode == "fsdp":
                shard_on_cpus()
                plain = killed_after(2)
                try:
                    refined(mode, out)
                except InterruptedError:
                    StopCallback.on_save = plain  # type: ignore[method-assign]
            refined(mode, out)


def test_two_processes_refine_as_one_does(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, __file__, str(tmp_path / "two")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for mode in RECIPES:
        alone = refined(mode, tmp_path / "one")
        verified_run(tmp_path / "two" / mode, "refinement", 2)
        together = Refinement.load(tmp_path / "two" / mode)
        one, two = (
            safetensors.torch.load_file(run.folder / "model" / "model.safetensors")
            for run in (alone, together)
        )
        start = small_model("llama").state_dict()
        went = max(float((w - start[name]).abs().max()) for name, w in one.items())
        off = max(float((w - two[name]).abs().max()) for name, w in one.items())
        assert went > 1e-3
        assert off < 1e-3 * went, mode
        assert not (together.folder / "checkpoints").exists()
        first, second = (
            [line["watched"]["nll"] for line in json.loads(text)["log"] if "watched" in line]
            for text in ((run.folder / "trained.json").read_text() for run in (alone, together))
        )
        assert second == pytest.approx(first, rel=1e-5)
        assert together.summary.moves == alone.summary.moves


def test_a_launch_whose_processes_do_not_know_of_each_other_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UnembedError, match=r"started 2 processes.* within unembed\.joined"):
        refined("ddp", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("asked", "batch", "said"),
    [
        ({}, 5, "batch_size 5 does not share out among 2 processes: give a multiple of 2"),
        ({"ACCELERATE_USE_FSDP": "true"}, 4, "FSDP 1 is asked for: launch with .* 2, or"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, 3, "batch_size 3 does not"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, 4, "DeepSpeed is asked for"),
    ],
)
def test_what_processes_cannot_train_by_is_refused(
    asked: dict[str, str], batch: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "current_ranks", lambda: Ranks(0, 2))
    with pytest.raises(UnembedError, match=said) as caught:
        processes.check_processes(Recipe(batch_size=batch))
    assert "\n" not in str(caught.value)


if __name__ == "__main__":
    refine_together(Path(sys.argv[1]))
