"""The Trainer with our penalty beside it: the loss of a step, its gradient, and where it runs."""

from __future__ import annotations

import copy
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reference.sweep
from conftest import train_tokenizer
from made_up.models import small_model
from made_up.tokenizers import with_bos
from places import ROOT
from unembed.errors import UnembedError
from unembed.head.head import Head, final_hidden
from unembed.head.loss import head_loss
from unembed.models.checkpoint import Checkpoint, quietly
from unembed.text.corpus import Corpus
from unembed.text.vocabulary import Vocabulary
from unembed.training.recipe.objectives import Objective
from unembed.training.recipe.protection import Ewc
from unembed.training.recipe.schedule import Schedule
from unembed.training.recipe.scope import apply_scope
from unembed.training.recipe.weighting import Positions, Weighting
from unembed.training.run.engine import Trainer, TrainingArguments
from unembed.training.run.examples import Examples, split
from unembed.training.run.head_hook import IGNORED, HeadHook, Targets
from unembed.training.run.penalty_term import POSITION_WEIGHTS, PenaltyTerm
from unembed.training.run.terms import window_losses
from unembed.training.run.trainer import RefineTrainer

CONTEXT = 24
SENTENCES = [
    "the first of them is a short one",
    "a second, which goes on for rather longer than the first one did, and then some more",
    "numbers such as 12 and 345 come third",
    "fourth of all, and last but one",
    "what is left of the text is here, in a fifth one that is as long as the second or longer",
    "six",
]
MODELS = ["llama", "gpt2", "gemma2"]


@pytest.fixture(scope="module")
def corpus(small_tokenizer: Any) -> Corpus:
    return Corpus.from_texts(SENTENCES * 3, small_tokenizer)


HOW: dict[str, Any] = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "remove_unused_columns": False,
    "dataloader_pin_memory": False,
    "use_cpu": True,
}


def arguments(folder: Path, **how: Any) -> TrainingArguments:
    return TrainingArguments(output_dir=str(folder), **{**HOW, **how})


def ran(
    model: nn.Module, examples: Examples, term: PenaltyTerm | None, folder: Path, **how: Any
) -> tuple[Any, list[dict[str, Tensor]]]:
    """A Trainer that has run, ours where there is a term, and the batches that it saw."""
    seen: list[dict[str, Tensor]] = []

    def collated(rows: Any) -> dict[str, Tensor]:
        batch = examples.collated(rows)
        seen.append({name: value.clone() for name, value in batch.items()})
        return batch

    ids, every = how.pop("token_ids", None), how.pop("diagnose_every", 10)
    kind = Trainer if term is None else RefineTrainer
    with quietly():
        trainer: Any = kind(
            model=model,
            args=arguments(folder, **how),
            train_dataset=examples,
            data_collator=collated,
        )
        if term is not None:
            trainer.refine_with(term, token_ids=ids, diagnose_every=every)
        trainer.train()
    return trainer, seen


def losses(trainer: Any) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@torch.no_grad()
def apart(one: nn.Module, other: nn.Module, start: nn.Module) -> float:
    """How far two trained models differ, as a share of how far the first one went."""
    trios = list(zip(one.parameters(), other.parameters(), start.parameters(), strict=True))
    off = torch.stack([(a - b).double().norm() for a, b, _ in trios]).norm()
    went = torch.stack([(a - c).double().norm() for a, _, c in trios]).norm()
    assert went > 0
    return float(off / went)


def fisher(logits: Tensor, rows: Tensor, k: int) -> Tensor:
    """The fisher penalty of every position from all logits, in plain float64 operations."""
    values, ids = logits.topk(k)
    p = values.softmax(-1)
    unit = torch.nn.functional.normalize(rows, dim=1)[ids]
    metric = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    v = unit[:, None] @ (unit[:, :, None] - unit[:, None]).transpose(2, 3)  # [n, i, m, j]
    square = torch.einsum("nimj,nml,nilj->nij", v, metric, v)
    distance = square.clamp_min(1e-8).sqrt() * (1 - torch.eye(k, dtype=p.dtype))
    return (p[:, :, None] * p[:, None, :] * distance).sum((1, 2))


def logits_and_targets(
    model: Any, batch: dict[str, Tensor], valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All logits in float64 where a token is predicted, these tokens and the positions' weights."""
    kept = batch["labels"][:, 1:] != IGNORED
    out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logits = out[:, :-1][kept].double()
    if valid is not None:
        logits = logits.masked_fill(~valid, -torch.inf)
    weights = batch.get(POSITION_WEIGHTS)
    weights = None if weights is None else weights[:, :-1][kept].double()
    return logits, batch["labels"][:, 1:][kept], weights


def oracle_gradients(
    model: nn.Module,
    batches: list[dict[str, Tensor]],
    term: PenaltyTerm,
    valid: Tensor | None = None,
) -> dict[str, Tensor]:
    """Of ``ce_weight * mean(nll of the step) + weight * sum(share * P)``, all logits in float64."""
    slow: Any = copy.deepcopy(model).double()
    slow.zero_grad()
    parts = [logits_and_targets(slow, batch, valid) for batch in batches]
    total = sum(len(targets) for _, targets, _ in parts)
    loss = torch.zeros((), dtype=torch.float64)
    for logits, targets, weights in parts:
        nll = logits.logsumexp(1) - logits.gather(1, targets[:, None])[:, 0]
        p = fisher(logits, slow.get_output_embeddings().weight, term.objective.k)
        weights = torch.ones_like(p) if weights is None else weights
        penalty = (weights * p).sum() / weights.sum() if weights.sum() > 0 else p.sum() * 0
        share = len(targets) / total
        loss = loss + share * (term.ce_weight * nll.mean() + term.weight * penalty)
    loss.backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in slow.named_parameters()
    }


def step_gradients(
    model: nn.Module, examples: Examples, term: PenaltyTerm, folder: Path, **how: Any
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]], Any]:
    """What one optimiser step subtracted at learning rate 1, the batches it saw, the Trainer."""
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer, seen = ran(model, examples, term, folder, max_steps=1, learning_rate=1.0, **how)
    used = seen[: how.get("gradient_accumulation_steps", 1)]
    return {name: start[name] - p.detach() for name, p in model.named_parameters()}, used, trainer


def worst(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest error of any parameter's gradient, as a share of the largest gradient."""
    size = max(float(g.abs().max()) for g in theirs.values())
    return max(float((ours[name] - g).abs().max()) for name, g in theirs.items()) / size


def without_dropout(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.parametrize("how", [{}, {"gradient_accumulation_steps": 2}, {"checkpointing": True}])
@pytest.mark.parametrize("name", MODELS)
def test_without_weight_the_trainer_runs_as_it_is(
    name: str, how: dict[str, Any], corpus: Corpus, tmp_path: Path
) -> None:
    how = {"max_steps": 2, "optim": "adamw_torch", "max_grad_norm": 1.0, **how}
    if how.pop("checkpointing", False):
        how["activation_checkpointing"] = True
    listed = Positions(np.array([1], dtype=np.int64), np.ones(1, dtype=np.float32))
    plain, theirs = small_model(name), Examples.of(corpus, CONTEXT)
    expected, _ = ran(plain, theirs, None, tmp_path, **how)
    for term in (PenaltyTerm(Objective("fisher"), 0.0), PenaltyTerm(Objective("none"), 0.7)):
        model = small_model(name)
        trainer, seen = ran(model, Examples.of(corpus, CONTEXT, listed), term, tmp_path, **how)
        assert POSITION_WEIGHTS in seen[0]
        assert same(model, plain)
        assert losses(trainer) == losses(expected)
    assert not same(plain, small_model(name))


@pytest.mark.parametrize("how", [{}, {"gradient_accumulation_steps": 2}, {"checkpointing": True}])
@pytest.mark.parametrize("name", MODELS)
def test_at_a_tiny_weight_the_run_follows_the_trainers(
    name: str, how: dict[str, Any], corpus: Corpus, tmp_path: Path
) -> None:
    how = dict(how)
    if how.pop("checkpointing", False):
        how["activation_checkpointing"] = True
    examples = Examples.of(corpus, CONTEXT)
    plain, model = small_model(name), small_model(name)
    expected, _ = ran(plain, examples, None, tmp_path, **how)
    trainer, _ = ran(model, examples, PenaltyTerm(Objective("fisher"), 1e-9), tmp_path, **how)
    assert losses(trainer) == pytest.approx(losses(expected), rel=1e-6)
    assert not same(model, plain)  # another product gives other last bits: not the plain path
    assert apart(plain, model, small_model(name)) < 2e-5


def test_noise_on_the_embeddings_is_the_trainers(corpus: Corpus, tmp_path: Path) -> None:
    examples, runs = Examples.of(corpus, CONTEXT), {}
    for noise in (5.0, None):
        for weight in (None, 1e-9):
            model = small_model("llama")
            term = None if weight is None else PenaltyTerm(Objective("fisher"), weight)
            ran(model, examples, term, tmp_path, neftune_noise_alpha=noise)
            runs[noise, weight] = model
    start = small_model("llama")
    assert apart(runs[5.0, None], runs[5.0, 1e-9], start) < 2e-5
    assert apart(runs[5.0, None], runs[None, None], start) > 1e-2


@pytest.mark.parametrize("name", MODELS)
def test_an_accumulated_step_has_the_gradient_of_all_logits(
    name: str, corpus: Corpus, tmp_path: Path
) -> None:
    model = without_dropout(small_model(name))
    start = copy.deepcopy(model)
    valid = torch.arange(300) < 290
    term = PenaltyTerm(Objective("fisher", k=4), 3.0, ce_weight=0.5)
    ours, used, _ = step_gradients(
        model,
        Examples.of(corpus, CONTEXT),
        term,
        tmp_path,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=3,
        token_ids=list(range(290)),
    )
    sizes = [int((batch["labels"] != IGNORED).sum()) for batch in used]
    assert len(set(sizes)) == 2
    assert worst(ours, oracle_gradients(start, used, term, valid)) < 2e-5
    alone = oracle_gradients(start, used, replace(term, weight=0.0), valid)
    assert worst(ours, alone) > 1e-2  # the penalty is no rounding error


def test_an_accumulated_step_checkpointed_and_in_a_scope_is_the_same(
    corpus: Corpus, tmp_path: Path
) -> None:
    term = PenaltyTerm(Objective("fisher"), 3.0)
    how = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3}
    for scope in ("last-1-blocks", "head", "final-norm"):
        found = []
        for checkpointing in (False, True):
            model = small_model("llama")
            apply_scope(model, scope)
            ours, used, _ = step_gradients(
                model,
                Examples.of(corpus, CONTEXT),
                term,
                tmp_path,
                activation_checkpointing=checkpointing,
                **how,
            )
            slow = small_model("llama")
            apply_scope(slow, scope)
            moved = {name for name, p in model.named_parameters() if p.requires_grad}
            expected = oracle_gradients(slow, used, term)
            assert all(bool((g == 0).all()) for name, g in ours.items() if name not in moved)
            kept = [{n: g for n, g in side.items() if n in moved} for side in (ours, expected)]
            assert worst(*kept) < 2e-5
            found.append(kept[0])
        assert worst(*found) < 1e-6


def test_listed_positions_alone_are_penalised(small_tokenizer: Any, tmp_path: Path) -> None:
    prefixed = Corpus.from_texts(SENTENCES, with_bos(small_tokenizer))
    keys = np.array([(d << 32) | p for d in (1, 2, 4) for p in (0, 3, 11, 12, 17)], dtype=np.int64)
    listed = Positions(keys, np.linspace(0.5, 3, len(keys)).astype(np.float32))
    examples = Examples.of(prefixed, 9, listed)
    model = small_model("llama")
    start, term = copy.deepcopy(model), PenaltyTerm(Objective("fisher"), 5.0)
    ours, used, _ = step_gradients(
        model, examples, term, tmp_path, per_device_train_batch_size=len(examples)
    )
    assert int((used[0][POSITION_WEIGHTS] > 0).sum()) == len(keys)
    assert worst(ours, oracle_gradients(start, used, term)) < 2e-5
    everywhere = [{k: v for k, v in used[0].items() if k != POSITION_WEIGHTS}]
    assert worst(ours, oracle_gradients(start, everywhere, term)) > 1e-2


@pytest.mark.parametrize("bos", [False, True])
def test_weights_lie_at_their_document_and_position(
    small_tokenizer: Any, tmp_path: Path, bos: bool
) -> None:
    """Rows longer than the context, several rows a document, and windows that begin with a BOS."""
    file = tmp_path / "t.txt"
    file.write_text("".join(f"{'= ' * (i % 2 == 0)}{line}\n" for i, line in enumerate(SENTENCES)))
    tokenizer = with_bos(small_tokenizer) if bos else small_tokenizer
    corpus = Corpus.read(file, tokenizer, document="^= ")
    documents = [
        [int(t) for t in corpus.ids[np.repeat(corpus.document, np.diff(corpus.starts)) == d]]
        for d in range(len(corpus.names))
    ]
    every = [(d, p) for d, tokens in enumerate(documents) for p in range(len(tokens))]
    keys = np.array([(d << 32) | p for d, p in every], dtype=np.int64)
    examples = Examples.of(corpus, 7, Positions(keys, np.arange(1, len(keys) + 1, dtype="f4")))
    found = []
    for i in range(len(examples)):
        row = examples[i]
        ids, labels, weights = (row[n].tolist() for n in ("input_ids", "labels", POSITION_WEIGHTS))
        assert len(ids) <= 7 + 1
        for t in range(len(ids)):
            target = labels[t + 1] if t + 1 < len(ids) else IGNORED
            if target == IGNORED:
                assert weights[t] == 0
                continue
            doc, pos = every[int(weights[t]) - 1]
            assert documents[doc][pos] == ids[t]
            assert documents[doc][pos + 1] == target == ids[t + 1]
            found.append((doc, pos))
    assert len(found) == len(set(found)) == corpus.tokens - corpus.rows
    assert examples.windows.prefixed.any() == bos
    counts = examples.target_counts(len(tokenizer))
    assert counts.sum() == len(found)
    for token in counts.nonzero()[:5, 0].tolist():
        assert counts[token] == sum(documents[d][p + 1] == token for d, p in found)


def test_a_batch_is_padded_on_the_right_and_padding_counts_nowhere(corpus: Corpus) -> None:
    listed = Positions(np.array([0, 1], dtype=np.int64), np.ones(2, dtype=np.float32))
    examples = Examples.of(corpus, CONTEXT, listed)
    rows = [examples[i] for i in range(4)]
    batch = examples.collated(rows)
    width = max(len(row["input_ids"]) for row in rows)
    for i, row in enumerate(rows):
        n = len(row["input_ids"])
        assert batch["attention_mask"][i].tolist() == [1] * n + [0] * (width - n)
        assert batch["labels"][i].tolist() == row["labels"].tolist() + [IGNORED] * (width - n)
        assert torch.equal(batch["input_ids"][i, :n], row["input_ids"])
        assert not batch[POSITION_WEIGHTS][i, n:].any()
    assert Targets.of(batch["labels"]).ids.tolist() == [
        token for row in rows for token in row["labels"].tolist()[1:]
    ]
    model = small_model("llama")
    hook = HeadHook.of(model)
    together = hook.at_head(
        model, batch_inputs(batch), lambda h, _: h[Targets.of(batch["labels"]).kept]
    )
    alone = [
        hook.at_head(model, {"input_ids": row["input_ids"][None]}, lambda h, _: h[0, :-1])
        for row in rows
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-6)


def batch_inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def test_positions_of_the_text_are_found_again_in_its_training_part(corpus: Corpus) -> None:
    part = split(corpus, 0.3)
    docs = np.arange(len(corpus.names), dtype=np.int64)
    listed = Positions((docs << 32) | 2, (docs + 1).astype(np.float32))
    placed = part.placed(listed)
    kept = np.flatnonzero(~part.held)
    assert part.training.names == tuple(corpus.names[d] for d in kept)
    assert placed.weights.tolist() == [d + 1 for d in kept]
    assert (placed.keys >> 32).tolist() == list(range(len(kept)))
    assert ((placed.keys & 0xFFFFFFFF) == 2).all()
    heldout = int(np.flatnonzero(part.held)[0])
    far = Positions(np.array([heldout << 32, 999 << 32]), np.ones(2, dtype=np.float32))
    with pytest.raises(UnembedError, match="2 positions"):
        part.placed(far)


def test_the_split_keeps_every_document_once_and_whole(corpus: Corpus) -> None:
    for share in (0.01, 0.3, 0.99):
        part = split(corpus, share)
        n = len(corpus.names)
        assert int(part.held.sum()) == min(n - 1, -(-share * n // 1))
        assert sorted(part.training.names + part.heldout.names) == sorted(corpus.names)
        assert part.training.tokens + part.heldout.tokens == corpus.tokens
        assert split(corpus, share).heldout.digest == part.heldout.digest


@pytest.mark.parametrize(("name", "scope"), [("gemma2", "full"), ("llama", "head")])
def test_the_two_gradients_are_compared_as_two_backward_passes_would(
    name: str, scope: str, corpus: Corpus, tmp_path: Path
) -> None:
    model = small_model(name)
    apply_scope(model, scope)
    start = copy.deepcopy(model)
    term = PenaltyTerm(Objective("fisher"), 0.3, ce_weight=0.8)
    _, used, trainer = step_gradients(model, Examples.of(corpus, CONTEXT), term, tmp_path)
    found = [line for line in trainer.state.log_history if "gradient_ratio" in line]
    head = Head.of(start)
    inputs = batch_inputs(used[0])
    hidden = HeadHook.of(start).at_head(start, inputs, lambda h, _: h.detach())
    kept, ids = Targets.of(used[0]["labels"]).kept, Targets.of(used[0]["labels"]).ids
    rows = hidden[kept].double().requires_grad_()
    weight = head.weight.double().requires_grad_()
    logits = reference.sweep.logits(rows, replace(head, weight=weight))
    nll = logits.logsumexp(1) - logits.gather(1, ids[:, None])[:, 0]
    penalty = fisher(logits, weight, 5).mean()
    where = rows if scope == "full" else weight
    [ours] = torch.autograd.grad(0.8 * nll.mean(), where, retain_graph=True)
    [theirs] = torch.autograd.grad(0.3 * penalty, where)
    assert len(found) == 1
    ours, theirs, nll, penalty = (one.detach() for one in (ours, theirs, nll, penalty))
    ratio = float(theirs.norm() / ours.norm())
    cosine = float((theirs * ours).sum() / theirs.norm() / ours.norm())
    assert found[0]["gradient_ratio"] == pytest.approx(ratio, rel=1e-4)
    assert found[0]["gradient_cosine"] == pytest.approx(cosine, abs=1e-5)
    assert found[0]["cross_entropy"] == pytest.approx(float(nll.mean()), rel=1e-5)
    assert found[0]["penalty"] == pytest.approx(float(penalty), rel=1e-5)


def test_the_clip_and_the_norms_are_the_trainers(corpus: Corpus, tmp_path: Path) -> None:
    trainer, _ = ran(
        small_model("llama"),
        Examples.of(corpus, CONTEXT),
        PenaltyTerm(Objective("fisher"), 0.5),
        tmp_path,
        diagnose_every=2,
        max_steps=5,
    )
    logged = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["step"] for line in logged if "gradient_ratio" in line] == [1, 3, 5]
    assert all(line["grad_norm"] > 0 for line in logged)
    for line in logged:
        assert line["loss"] == pytest.approx(line["cross_entropy"] + 0.5 * line["penalty"])


def test_a_body_in_bfloat16_leaves_float32_weights(corpus: Corpus, tmp_path: Path) -> None:
    runs = {}
    for bf16 in (False, True):
        model = small_model("llama")
        trainer, _ = ran(
            model,
            Examples.of(corpus, CONTEXT),
            PenaltyTerm(Objective("fisher"), 1.0),
            tmp_path,
            bf16=bf16,
        )
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert not same(model, small_model("llama"))
        runs[bf16] = losses(trainer)
    assert runs[True] != runs[False]
    assert runs[True] == pytest.approx(runs[False], rel=2e-2)


def test_weights_by_token_and_gates_reach_the_loss(corpus: Corpus, tmp_path: Path) -> None:
    examples = Examples.of(corpus, CONTEXT)
    vocabulary = Vocabulary.of(corpus.tokenizer, range(300))
    table = Weighting(frequency=0.5, below_margin=0.4).table(
        examples.target_counts(300), vocabulary
    )
    model = small_model("llama")
    start = copy.deepcopy(model)
    term = PenaltyTerm(Objective("fisher"), 2.0, weighting=table)
    ours, used, _ = step_gradients(model, examples, term, tmp_path)
    with torch.no_grad():
        logits, targets, _ = logits_and_targets(start, used[0], None)
    top = logits.topk(2).values
    gate = top[:, 0] - top[:, 1] < 0.4
    assert 0 < int(gate.sum()) < len(gate)
    batch = dict(used[0])
    batch[POSITION_WEIGHTS] = torch.zeros(batch["labels"].shape, dtype=torch.float64)
    batch[POSITION_WEIGHTS][:, :-1][batch["labels"][:, 1:] != IGNORED] = (
        table.by_token[targets].double() * gate
    )
    assert worst(ours, oracle_gradients(start, [batch], term)) < 2e-5


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_a_broken_model_is_one_line(weight: float, corpus: Corpus, tmp_path: Path) -> None:
    model = small_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3] = torch.nan
    term = PenaltyTerm(Objective("fisher"), weight)
    with pytest.raises(UnembedError, match="finite at step 0") as caught:
        ran(model, Examples.of(corpus, CONTEXT), term, tmp_path)
    assert "\n" not in str(caught.value)


def test_what_a_term_cannot_be(corpus: Corpus, tmp_path: Path) -> None:
    for given in ({"weight": -1.0}, {"weight": 1.0, "ce_weight": float("nan")}):
        with pytest.raises(UnembedError, match="is no weight of a loss"):
            PenaltyTerm(Objective("fisher"), **given)
    with quietly():
        trainer: Any = RefineTrainer(model=small_model("llama"), args=arguments(tmp_path))
    trainer.args._n_gpu = 2
    with pytest.raises(UnembedError, match="torchrun"):
        trainer.refine_with(PenaltyTerm(Objective("fisher"), 1.0))


def test_evaluation_is_the_trainers_own(corpus: Corpus, tmp_path: Path) -> None:
    examples = Examples.of(corpus, CONTEXT)
    found = []
    for kind in (Trainer, RefineTrainer):
        with quietly():
            trainer: Any = kind(
                model=small_model("llama"),
                args=arguments(tmp_path),
                eval_dataset=examples,
                data_collator=examples.collated,
            )
            if kind is RefineTrainer:
                trainer.refine_with(PenaltyTerm(Objective("fisher"), 2.0))
            found.append(trainer.evaluate()["eval_loss"])
    assert found[0] == found[1]


def test_a_model_that_calls_its_head_twice_is_refused() -> None:
    model = small_model("llama")
    hook, plain = HeadHook.of(model), model.forward

    def twice(**inputs: Any) -> Any:
        plain(**inputs)
        return plain(**inputs)

    model.forward = twice
    ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(UnembedError, match="head 2 times"):
        hook.at_head(model, {"input_ids": ids}, lambda h, _: h)
    del model.forward
    assert "forward" not in vars(model.lm_head)
    hidden = hook.at_head(model, {"input_ids": ids}, lambda h, _: h)
    assert torch.equal(hidden, final_hidden(model, ids))


def test_the_example_refines_with_a_trainer_and_a_loop_of_ones_own(
    small_tokenizer: Any, tmp_path: Path
) -> None:
    path = ROOT / "examples" / "own_trainer.py"
    example: Any = runpy.run_path(str(path))
    texts = ["the first of them", "and the second one of them is longer", "12 and 345"]
    given = Checkpoint("tiny", small_model("llama"), copy.deepcopy(small_tokenizer))
    with quietly():
        trainer = example["with_a_trainer"](given, texts, output_dir=str(tmp_path), **HOW)
    logged = [line for line in trainer.state.log_history if "loss" in line]
    assert len(logged) == HOW["max_steps"]
    for line in logged:
        assert line["loss"] == pytest.approx(line["cross_entropy"] + 0.6 * line["penalty"])
    assert not same(given.model, small_model("llama"))

    model = without_dropout(small_model("gpt2"))
    found = example["with_a_loop"](Checkpoint("tiny", model, small_tokenizer), texts, steps=2)
    ids = torch.tensor([small_tokenizer(texts[0])["input_ids"]])
    with torch.no_grad():
        logits = small_model("gpt2")(input_ids=ids).logits[0, :-1, : len(small_tokenizer)]
    nll = torch.nn.functional.cross_entropy(logits, ids[0, 1:])
    assert found[0] == pytest.approx(float(nll), rel=1e-5)
    assert len(found) == 2
    assert not same(model, small_model("gpt2"))


def test_the_example_trains_from_random_weights_by_share_and_schedule(
    small_tokenizer: Any,
) -> None:
    example: Any = runpy.run_path(str(ROOT / "examples" / "own_trainer.py"))
    texts = ["the first of them", "and the second one of them is longer", "12 and 345"]
    given = Checkpoint("tiny", small_model("llama"), small_tokenizer)

    def plain(steps: int) -> list[nn.Module]:
        """The same loop without any penalty; the weights after every step."""
        torch.manual_seed(3)
        model: Any = type(given.model)(given.model.config).train()
        hook = HeadHook.of(model, list(range(len(small_tokenizer))))
        optimizer, after = torch.optim.AdamW(model.parameters(), lr=1e-3), []
        for step in range(steps):
            ids = torch.tensor([small_tokenizer(texts[step % len(texts)])["input_ids"]])
            hidden = final_hidden(model, ids)[0, :-1]
            loss = head_loss(hidden, hook.current_head(model), ids[0, 1:]).nll.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after.append(copy.deepcopy(model))
        return after

    expected = plain(6)
    for share, schedule in ((0.0, Schedule(ramp=0.5)), (0.1, Schedule(after=0.99))):
        torch.manual_seed(3)
        found, losses = example["from_random_weights"](given, texts, 6, share, schedule)
        assert same(found, expected[5])
        assert [weight for _, weight in losses] == [0.0] * 6
    torch.manual_seed(3)
    found, losses = example["from_random_weights"](given, texts, 6)
    assert [weight for _, weight in losses[:4]] == [0.0] * 4  # the fourth is the ramp's foot
    assert all(weight > 0 for _, weight in losses[4:])
    assert not same(found, expected[5])
    assert not same(found, given.model)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor 0.1 .* set it to 0"),
        ({"compute_loss_func": len}, "compute_loss_func len .* leave it out"),
        ({"loss_function": len}, "loss_function len .* delete it"),
        ({"output_router_logits": True}, "output_router_logits.* set it to False"),
        ({"use_liger_kernel": True}, "use_liger_kernel .* set it to False"),
    ],
)
def test_a_setting_that_a_loss_without_logits_would_drop_is_refused(
    how: dict[str, Any], words: str, tmp_path: Path
) -> None:
    how, model = dict(how), small_model("llama")
    given = {name: how.pop(name) for name in ("compute_loss_func",) if name in how}
    if "loss_function" in how:
        model.loss_function = how.pop("loss_function")
    if how.pop("output_router_logits", False):
        model.config.output_router_logits = True
    liger = how.pop("use_liger_kernel", False)
    with quietly():
        trainer: Any = RefineTrainer(model=model, args=arguments(tmp_path, **how), **given)
    trainer.args.use_liger_kernel = liger  # after a start that needs the package
    with pytest.raises(UnembedError, match=words) as caught:
        trainer.refine_with(PenaltyTerm(Objective("fisher"), 1.0))
    assert "\n" not in str(caught.value)
    trainer.refine_with(PenaltyTerm(Objective("fisher"), 0.0))  # the Trainer's own loss, in full


@pytest.mark.parametrize(("name", "way"), [("tp", "tensor"), ("cp", "context"), ("sp", "sequence")])
def test_parallelism_that_splits_a_batch_or_the_head_is_refused(
    name: str, way: str, tmp_path: Path
) -> None:
    with quietly():
        trainer: Any = RefineTrainer(model=small_model("llama"), args=arguments(tmp_path))
    setattr(trainer, f"get_{name}_size", lambda: 2)
    with pytest.raises(UnembedError, match=f"{way} parallelism of 2 splits .* DDP or FSDP"):
        trainer.refine_with(PenaltyTerm(Objective("fisher"), 1.0))
    trainer.refine_with(PenaltyTerm(Objective("fisher"), 0.0))


@pytest.mark.parametrize("weight", [0.0, 1e-9])
@pytest.mark.parametrize("how", [{}, {"gradient_accumulation_steps": 2}])
def test_batches_and_steps_without_a_target_run_on_as_the_trainers_do(
    weight: float, how: dict[str, Any], corpus: Corpus, tmp_path: Path
) -> None:
    examples = Examples.of(corpus, CONTEXT)

    class Silent(Examples):
        """The first half of the windows predicts nothing."""

        def __getitem__(self, i: int) -> dict[str, Tensor]:
            row = super().__getitem__(i)
            return {**row, "labels": torch.full_like(row["labels"], IGNORED)} if i < 9 else row

    silent, runs = Silent(examples.windows, None), []
    for term in (None, PenaltyTerm(Objective("fisher"), weight)):
        model = small_model("llama")
        how = {**how, "per_device_train_batch_size": 1, "max_steps": 6, "optim": "adamw_torch"}
        trainer, seen = ran(model, silent, term, tmp_path, **how)
        trainer.eval_dataset = silent
        with quietly():
            evaluated = trainer.evaluate(silent)["eval_loss"]
        runs.append((model, evaluated))
    empty = [not bool((batch["labels"] != IGNORED).any()) for batch in seen]
    assert any(empty)
    assert not all(empty)
    assert apart(runs[0][0], runs[1][0], small_model("llama")) < 1e-3
    assert np.isnan(runs[0][1]) == np.isnan(runs[1][1])


def test_weights_of_positions_are_no_unused_column(corpus: Corpus, tmp_path: Path) -> None:
    listed = Positions(np.array([1, 2], dtype=np.int64), np.ones(2, dtype=np.float32))
    found = []
    for unused in (True, False):
        model = small_model("llama")
        term = PenaltyTerm(Objective("fisher"), 3.0)
        examples = Examples.of(corpus, CONTEXT, listed)
        ran(model, examples, term, tmp_path, remove_unused_columns=unused)
        found.append(model)
    assert same(*found)


@pytest.mark.parametrize(("weight", "evaluated"), [(0.0, False), (0.0, True), (1.0, True)])
def test_weights_of_positions_reach_no_model(
    weight: float, evaluated: bool, corpus: Corpus, tmp_path: Path
) -> None:
    """Where the loss is the Trainer's own, the model is called with what it knows."""
    model, examples = small_model("llama"), Examples.of(corpus, CONTEXT)
    listed = Examples.of(corpus, CONTEXT, Positions(np.array([1]), np.ones(1, dtype=np.float32)))
    plain, seen = model.forward, []
    model.forward = lambda **inputs: (seen.append(set(inputs)), plain(**inputs))[1]
    with quietly():
        trainer: Any = RefineTrainer(model=model, args=arguments(tmp_path))
    trainer.refine_with(PenaltyTerm(Objective("fisher"), weight))
    batches = [one.collated([one[0], one[1]]) for one in (examples, listed, examples)]
    for number, batch in enumerate(batches):
        if number == 1:
            seen.clear()  # what proves the head and the product comes before the first loss
        trainer.compute_loss(model, batch, return_outputs=evaluated)
    assert POSITION_WEIGHTS in listed.collated([listed[0]])
    assert len(seen) == 2
    assert seen[0] == seen[1]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_loss_of_a_compiled_model_is_not_compiled() -> None:
    model = small_model("llama")
    hook, compiled = HeadHook.of(model), torch.compile(model, backend="eager")
    inside: list[bool] = []

    def read(hidden: Tensor, _head: Head) -> Tensor:
        inside.append(torch.compiler.is_compiling())
        return hidden

    hidden = hook.at_head(compiled, {"input_ids": torch.ones(1, 4, dtype=torch.long)}, read)
    assert inside == [False]
    torch.testing.assert_close(hidden, final_hidden(model, torch.ones(1, 4, dtype=torch.long)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_model_trains_as_it_does_uncompiled(corpus: Corpus, tmp_path: Path) -> None:
    examples, found = Examples.of(corpus, CONTEXT), []
    for how in ({}, {"torch_compile": True}):
        model = small_model("llama")
        term = PenaltyTerm(Objective("fisher"), 1.0)
        trainer, _ = ran(model, examples, term, tmp_path, **how)
        assert "gradient_ratio" in trainer.state.log_history[0]
        found.append(model)
    assert apart(*found, small_model("llama")) < 1e-4


@dataclass(frozen=True)
class Apart:
    """What two processes train, and by what: torch's own wrapper is called here, or by accelerate
    where ``fsdp`` is the version that its launch asks for.
    """

    wrapper: str
    scope: str = "full"
    accumulation: int = 1
    fsdp: int | None = None
    ewc: bool = False
    share: float | None = None


APART = {
    "ddp": Apart("DistributedDataParallel", accumulation=2),
    "sharded": Apart("FSDPLlamaForCausalLM"),
    "sharded, head": Apart("FSDPLlamaForCausalLM", scope="head"),
    "fsdp 2": Apart("FSDPLlamaForCausalLM", fsdp=2, ewc=True, accumulation=2),
    "fsdp 2, head": Apart("FSDPLlamaForCausalLM", scope="head", fsdp=2, ewc=True),
    "fsdp 1": Apart("FullyShardedDataParallel", fsdp=1, ewc=True),
    "ddp, share": Apart("DistributedDataParallel", accumulation=2, share=0.5),
    "fsdp 2, share": Apart("FSDPLlamaForCausalLM", fsdp=2, share=0.5, accumulation=2),
    "fsdp 2, head, share": Apart("FSDPLlamaForCausalLM", scope="head", fsdp=2, share=0.5),
}


def wrapped_by_accelerate(version: int) -> dict[str, Any]:
    """Settings of a Trainer with which accelerate shards as on GPUs; it has no FSDP on a CPU."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType
    from torch.distributed.fsdp import _init_utils

    environment = {"FSDP_VERSION": str(version)}
    if version == 1:
        environment |= {"FSDP_CPU_RAM_EFFICIENT_LOADING": "false"}
        environment |= {"FSDP_SYNC_MODULE_STATES": "false"}
    os.environ.update(environment)
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState(cpu=True).distributed_type = DistributedType.MULTI_GPU
    _init_utils._get_device_from_device_id = lambda *_args, **_rest: torch.device("cpu")
    return {"accelerator_config": {"use_configured_state": True}}


def weights_of(model: nn.Module, wrapped: nn.Module) -> dict[str, Tensor]:
    """Every weight, whole."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    def found() -> dict[str, Tensor]:
        return {
            name.replace("_fsdp_wrapped_module.", ""): (
                p.full_tensor() if hasattr(p, "full_tensor") else p
            )
            .detach()
            .clone()
            for name, p in model.named_parameters()
        }

    if not isinstance(wrapped, FullyShardedDataParallel):
        return found()
    with FullyShardedDataParallel.summon_full_params(wrapped):
        return found()


def trained_apart(folder: Path, mode: str) -> None:
    """Train by as many processes as there are, 4 windows at a time in all; the first saves."""
    from torch.distributed.fsdp import fully_shard

    how, processes = APART[mode], int(os.environ.get("WORLD_SIZE", 1))
    apart = processes > 1
    tokenizer = train_tokenizer(SENTENCES * 3, 290)
    examples = Examples.of(Corpus.from_texts(SENTENCES * 3, tokenizer), CONTEXT)
    by_accelerate = wrapped_by_accelerate(how.fsdp) if apart and how.fsdp else {}
    with quietly():
        args = arguments(
            folder,
            per_device_train_batch_size=4 // processes,
            gradient_accumulation_steps=how.accumulation,
            **by_accelerate,
        )
        model = small_model("llama")
        apply_scope(model, how.scope)
        trainer: Any = RefineTrainer(
            model=model, args=args, train_dataset=examples, data_collator=examples.collated
        )
        hook = HeadHook.of(model)
        ewc = (300.0, Ewc.of(model, window_losses(hook, examples))) if how.ewc else None
        term = PenaltyTerm(Objective("fisher"), 3.0, ewc=ewc)
        if how.share is not None:
            late = Schedule(after=0.3, ramp=0.6)  # the first step of three is the plain Trainer's
            term = replace(term, weight=0.0, gradient_share=how.share, schedule=late)
        trainer.refine_with(term)
        if mode.startswith("sharded") and apart:
            # What a model has that transformers shards when it loads it.
            for layer in model.model.layers:
                fully_shard(layer)
            fully_shard(model)
            trainer.is_distributed_loading_by_transformers = True
        trainer.train()
    found = weights_of(model, trainer.model_wrapped)
    if args.process_index == 0:
        kind = type(trainer.model_wrapped).__name__
        torch.save({"weights": found, "losses": losses(trainer), "kind": kind}, folder / mode)


def test_two_processes_of_accelerates_launch_train_as_one_with_twice_the_batch(
    tmp_path: Path,
) -> None:
    launch = "launch --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    sharded = "--use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP"
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", *launch.split()]
    done = subprocess.run(
        [*command, *sharded.split(), __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "UserWarning" not in done.stderr, done.stderr[-3000:]
    (tmp_path / "alone").mkdir()
    by_ewc = {}
    for mode, how in APART.items():
        together = torch.load(tmp_path / mode)
        trained_apart(tmp_path / "alone", mode)
        alone = torch.load(tmp_path / "alone" / mode)
        assert (together["kind"], alone["kind"]) == (how.wrapper, "LlamaForCausalLM")
        assert together["losses"] == pytest.approx(alone["losses"], rel=1e-6)
        start = {name: p.detach() for name, p in small_model("llama").named_parameters()}
        went = max(float((alone["weights"][n] - p).abs().max()) for n, p in start.items())
        off = max(
            float((together["weights"][n] - w).abs().max()) for n, w in alone["weights"].items()
        )
        assert off < 1e-4 * went
        by_ewc[mode] = alone["weights"]
    # EWC is no rounding error: these two differ by it alone.
    held = by_ewc["sharded, head"]["lm_head.weight"] - by_ewc["fsdp 2, head"]["lm_head.weight"]
    assert float(held.abs().max()) > 1e-4


if __name__ == "__main__":
    for each in APART:
        trained_apart(Path(sys.argv[1]), each)
