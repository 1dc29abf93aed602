"""A step is a step, however many batches, accumulations and processes it is split into."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import train_tokenizer
from made_up.models import small_model
from unembed.models.checkpoint import quietly
from unembed.text.corpus import Corpus
from unembed.text.vocabulary import Vocabulary
from unembed.training.recipe.objectives import Objective
from unembed.training.recipe.protection import Protection
from unembed.training.recipe.recipe import Recipe
from unembed.training.recipe.weighting import Positions, Weighting
from unembed.training.run import terms
from unembed.training.run.engine import TrainingArguments
from unembed.training.run.examples import Examples
from unembed.training.run.head_hook import HeadHook
from unembed.training.run.terms import term_of
from unembed.training.run.trainer import RefineTrainer

SENTENCES = [
    "the first of them is a short one",
    "a second, which goes on for rather longer than the first one did, and then some more",
    "numbers such as 12 and 345 come third",
    "fourth of all, and last but one",
    "what is left of the text is here, in a fifth one that is as long as the second or longer",
    "six",
]
SPLITS = [(8, 1), (4, 2), (1, 8)]
"""Windows a batch, and batches a step."""

OBJECTIVES = {
    "margin": Objective("margin", threshold=0.2),
    "fisher": Objective("fisher", k=3),
    "entropy": Objective("entropy"),
    "cosine": Objective("cosine"),
    "none": Objective("none"),
}
WEIGHTINGS = {
    "even": Weighting(),
    "frequency": Weighting(frequency=0.7),
    "classes": Weighting(classes={"numeric": 9.0}),
    "narrow": Weighting(frequency=0.5, below_margin=0.15),
    "right": Weighting(only_right=True),
    "listed": Weighting(),
}
PROTECTIONS = {
    "free": Protection(),
    "ewc": Protection(ewc=30.0),
    "margin": Protection(margin=3.0),
    "kl": Protection(kl=30.0, classes=("numeric", "structural")),
}
FEW = [
    ("margin", "even", "margin"),
    ("fisher", "narrow", "kl"),
    ("fisher", "listed", "ewc"),
    ("entropy", "right", "free"),
    ("cosine", "classes", "margin"),
    ("none", "even", "kl"),
    ("fisher %", "frequency", "free"),
    ("margin %", "narrow", "kl"),
    ("entropy %", "listed", "margin"),
]
"""Every objective, weighting and protection at least once or nearly so; % is by gradient share."""


def text() -> Corpus:
    return Corpus.from_texts(SENTENCES * 4, train_tokenizer(SENTENCES * 3, 290))


def one_step(
    corpus: Corpus,
    what: tuple[str, str, str],
    folder: Path,
    split: tuple[int, int],
    *,
    model: str = "llama",
    **how: Any,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What a step at rate 1 subtracts, and what it logs."""
    objective, weighting, protection = what
    by_share = objective.endswith(" %")
    recipe = Recipe(
        objective=OBJECTIVES[objective.removesuffix(" %")],
        weight=0.0 if by_share else 0.7,
        gradient_share=0.3 if by_share else None,
        weighting=WEIGHTINGS[weighting],
        protection=PROTECTIONS[protection],
    )
    listed = None
    if weighting == "listed":
        keys = np.array([(d << 32) | p for d in range(0, 20, 3) for p in (0, 2, 5)], dtype=np.int64)
        listed = Positions(keys, np.linspace(0.5, 3, len(keys)).astype(np.float32))
    examples = Examples.of(corpus, 16, listed)
    start = small_model(model).eval()
    trained = small_model(model)
    hook = HeadHook.of(trained)
    vocabulary = Vocabulary.of(corpus.tokenizer, range(hook.head.vocab))
    with pytest.MonkeyPatch.context() as few:
        few.setattr(terms, "EWC_SEQUENCES", 8)  # any Fisher will do
        term = term_of(recipe, hook, start, examples, vocabulary)
    with torch.no_grad():
        torch.manual_seed(1)
        for p in trained.parameters():
            p.add_(0.02 * torch.randn_like(p))
    before = {name: p.detach().clone() for name, p in trained.named_parameters()}
    with quietly():
        args = TrainingArguments(
            output_dir=str(folder),
            max_steps=1,
            per_device_train_batch_size=split[0],
            gradient_accumulation_steps=split[1],
            learning_rate=1.0,
            optim="sgd",
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=True,
            **how,
        )
        trainer: Any = RefineTrainer(
            model=trained,
            args=args,
            train_dataset=examples,
            data_collator=examples.collated,
        )
        trainer.refine_with(term)
        trainer.train()
    found = {name: before[name] - p.detach() for name, p in trained.named_parameters()}
    logged = next(line for line in trainer.state.log_history if "loss" in line)
    return found, {k: logged[k] for k in LOGGED if k in logged}


LOGGED = ("loss", "cross_entropy", "penalty", "penalty_weight", "gradient_ratio",
          "gradient_cosine")  # fmt: skip


def assert_same_step(
    one: tuple[dict[str, Tensor], dict[str, float]],
    other: tuple[dict[str, Tensor], dict[str, float]],
) -> None:
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        assert other[1][name] == pytest.approx(value, rel=2e-5, abs=2e-6), name
    size = max(float(g.abs().max()) for g in one[0].values())
    off = max(float((other[0][name] - g).abs().max()) for name, g in one[0].items())
    assert off < 5e-5 * size


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return text()


@pytest.mark.parametrize("what", FEW, ids="-".join)
def test_a_step_is_the_same_however_it_is_split(
    what: tuple[str, str, str], corpus: Corpus, tmp_path: Path
) -> None:
    whole, *parts = (one_step(corpus, what, tmp_path, split) for split in SPLITS)
    for part in parts:
        assert_same_step(whole, part)


EVERY_TWO = [
    (objective, weighting, list(PROTECTIONS)[(i + j) % len(PROTECTIONS)])
    for i, objective in enumerate(OBJECTIVES)
    for j, weighting in enumerate(WEIGHTINGS)
]
"""Every two of an objective, a weighting and a protection together: a step adds the protection's
part to the weighted objective's, and no more than two of the three meet in a term."""


def test_every_two_kinds_meet() -> None:
    for one, other, kinds in (
        (0, 1, product(OBJECTIVES, WEIGHTINGS)),
        (0, 2, product(OBJECTIVES, PROTECTIONS)),
        (1, 2, product(WEIGHTINGS, PROTECTIONS)),
    ):
        assert {(what[one], what[other]) for what in EVERY_TWO} == set(kinds)


@pytest.mark.slow
@pytest.mark.parametrize("what", EVERY_TWO, ids="-".join)
def test_every_two_kinds_of_step_are_the_same_however_they_are_split(
    what: tuple[str, str, str], corpus: Corpus, tmp_path: Path
) -> None:
    whole, *parts = (one_step(corpus, what, tmp_path, split) for split in SPLITS)
    for part in parts:
        assert_same_step(whole, part)


def test_the_pass_that_counts_sees_the_dropout_of_the_step(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-2 drops out: what was counted before is what the batches count themselves."""
    from unembed.training.run import step_mass

    masses = []
    plain = RefineTrainer._loss_at_head

    def noted(self: Any, part: Any, hidden: Tensor, head: Any) -> Tensor:
        alone = self._mass_at_head(part, hidden, head)
        masses.append((part.mass, alone))
        return plain(self, part, hidden, head)

    monkeypatch.setattr(RefineTrainer, "_loss_at_head", noted)
    one_step(corpus, ("margin", "narrow", "margin"), tmp_path, (2, 4), model="gpt2")
    assert len(masses) == 4
    total = step_mass.StepMass.total(alone for _, alone in masses)
    assert all(of_step.values == pytest.approx(total.values) for of_step, _ in masses)


def in_processes(folder: Path) -> None:
    """Every few of them in this process, which is one of one or two; the first saves."""
    corpus = text()
    found = {}
    processes = TrainingArguments(output_dir=str(folder), use_cpu=True).world_size
    for what in FEW:
        for split in ((8, 1), (4, 2)):
            windows = split[0] // processes
            found["-".join(what), split] = one_step(corpus, what, folder, (windows, split[1]))
    if processes == 1 or torch.distributed.get_rank() == 0:
        torch.save(found, folder / "found.pt")


@pytest.mark.slow
def test_a_step_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, __file__, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (tmp_path / "alone").mkdir()
    in_processes(tmp_path / "alone")
    together = torch.load(tmp_path / "found.pt")
    alone = torch.load(tmp_path / "alone" / "found.pt")
    assert together.keys() == alone.keys()
    for name, whole in alone.items():
        assert_same_step(whole, together[name])


if __name__ == "__main__":
    in_processes(Path(sys.argv[1]))
