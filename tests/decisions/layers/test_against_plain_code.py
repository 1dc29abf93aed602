"""Every column at every depth, on many architectures, against plain transformers in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from made_up.models import small_model
from made_up.shrunken import shrunken
from unembed import Corpus, audit, layers
from unembed.decisions import AuditOptions, Layers, LayersOptions
from unembed.decisions.layers.columns import CANDIDATES, OF_AUDIT
from unembed.runs.arrays import numbers_of

TOP_K, CONTEXT = 3, 16
OPTIONS = LayersOptions(top_k=TOP_K, context=CONTEXT, batch_tokens=128, cloud_points=0)
BUDGET = 2e-5
"""Largest difference, in units of one plus the position's largest logit."""

WORDS = ("a program", "an anonymous function", "a convenient way to debug", "no more assertions")
TEXTS = [
    f"The {name} keyword creates {words}; see it." for name in ("with", "if") for words in WORDS
]


def plain(scores: Tensor) -> Tensor:
    return scores


def norm_at(path: str) -> Callable[[Any, Tensor], Tensor]:
    return lambda model, state: model.get_submodule(path)(state)


def opt_tail(model: Any, state: Tensor) -> Tensor:
    decoder = model.model.decoder
    projected: Tensor = decoder.project_out(decoder.final_layer_norm(state))
    return projected


Plain = tuple[str, Callable[[Any, Tensor], Tensor], Callable[[Tensor], Tensor]]
ARCHITECTURES: dict[str, Plain] = {
    "llama": ("model.layers", norm_at("model.norm"), plain),
    "gpt2": ("transformer.h", norm_at("transformer.ln_f"), plain),
    "gpt_neox": ("gpt_neox.layers", norm_at("gpt_neox.final_layer_norm"), plain),
    "opt": ("model.decoder.layers", opt_tail, plain),
    "phi": ("model.layers", norm_at("model.final_layernorm"), plain),
    "qwen3": ("model.layers", norm_at("model.norm"), plain),
    "gemma2": ("model.layers", norm_at("model.norm"), lambda s: 30 * torch.tanh(s / 30)),
    "cohere": ("model.layers", norm_at("model.norm"), lambda s: 0.0625 * s),
    "granite": ("model.layers", norm_at("model.norm"), lambda s: s / 13),
    "mamba": ("backbone.layers", norm_at("backbone.norm_f"), plain),
    "mixtral": ("model.layers", norm_at("model.norm"), plain),
    "jamba": ("model.layers", norm_at("model.final_layernorm"), plain),
    "bamba": ("model.layers", norm_at("model.final_layernorm"), plain),
}
"""Where its blocks are, what follows them, and what becomes of ``W h + b``, by its own code."""


def made(name: str) -> Any:
    return shrunken(name) if name in ("jamba", "bamba") else small_model(name)


def windows_of(corpus: Corpus) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets of each window."""
    found = []
    for row in range(corpus.rows):
        ids = torch.tensor(corpus.ids[corpus.starts[row] : corpus.starts[row + 1]]).long()
        for start in range(0, len(ids) - 1, CONTEXT):
            found.append((ids[start : start + CONTEXT + 1][:-1], ids[start + 1 :][:CONTEXT]))
    return found


@torch.no_grad()
def plain_states(name: str, model: Any, corpus: Corpus) -> list[Tensor]:
    """Of every position at every depth; transformers has the last after the norm alone."""
    path = ARCHITECTURES[name][0]
    blocks = model.get_submodule(path)
    caught: list[Tensor] = []
    ends = [
        blocks[0].register_forward_pre_hook(lambda _m, args: caught.append(args[0].clone())),
        blocks[-1].register_forward_hook(
            lambda _m, _a, out: caught.append(out[0] if isinstance(out, tuple) else out)
        ),
    ]
    found: list[list[Tensor]] = []
    for ids, _targets in windows_of(corpus):
        out = model(input_ids=ids[None], use_cache=False, output_hidden_states=True)
        within = out.hidden_states[:-1] if name == "mamba" else out.hidden_states[1:-1]
        first, last = caught[:1], caught[1:]
        caught.clear()
        inner = within[:-1] if name == "mamba" else within
        found.append([one[0] for one in (*first, *inner, *last)])
    for end in ends:
        end.remove()
    return [torch.cat(rows).double() for rows in zip(*found, strict=True)]


def leading(logits: Tensor) -> tuple[Tensor, Tensor]:
    values, ids = logits.sort(dim=1, descending=True, stable=True)
    return values[:, :TOP_K], ids[:, :TOP_K]


def penalties(values: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """From the rows themselves, and the paper's quadratic form."""
    p, unit = values.softmax(1), rows / rows.norm(dim=2, keepdim=True)
    pairs = p[:, :, None] * p[:, None, :] * (1 - torch.eye(TOP_K))
    metric = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    apart = (unit[:, :, None] - unit[:, None, :]) @ unit.mT[:, None]
    square = torch.einsum("nijk,nkl,nijl->nij", apart, metric, apart).clamp_min(1e-8)
    return {
        "cosine_penalty": (pairs * (1 - unit @ unit.mT)).sum((1, 2)),
        "fisher_penalty": (pairs * square.sqrt()).sum((1, 2)),
    }


def plain_columns(
    state: Tensor, scores: Tensor, logits: Tensor, final: Tensor, weight: Tensor, target: Tensor
) -> dict[str, Tensor]:
    """Every column, of whole float64 logits; ``scores`` are those before scale and soft-cap."""
    values, ids = leading(logits)
    best, second = ids[:, 0], ids[:, 1]
    q, p = logits.log_softmax(1), final.log_softmax(1)
    aim, winner = target[:, None], final.argmax(1, keepdim=True)
    gap = (scores.gather(1, best[:, None]) - scores.gather(1, second[:, None]))[:, 0]
    wall = (weight[best] - weight[second]).norm(dim=1)
    return {
        "target": target,
        "top1": best,
        "top2": second,
        "topk_ids": ids,
        "topk_logits": values,
        "margin": values[:, 0] - values[:, 1],
        "relative_distance": gap / (wall * state.norm(dim=1)),
        "hidden_norm": state.norm(dim=1),
        "nll": -q.gather(1, aim)[:, 0],
        "entropy": -(q.exp() * q).sum(1),
        "logsumexp": logits.logsumexp(1),
        "rank": 1 + (logits > logits.gather(1, aim)).sum(1),
        "final_rank": 1 + (logits > logits.gather(1, winner)).sum(1),
        "kl_final": (p.exp() * (p - q)).sum(1),
        "acceptance": torch.minimum(p, q).exp().sum(1),
        **penalties(values, weight[ids]),
    }


@pytest.fixture(scope="module")
def corpus(small_tokenizer: Any) -> Corpus:
    return Corpus.from_texts(TEXTS, small_tokenizer)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@torch.no_grad()
def test_every_column_at_every_depth_is_that_of_plain_code(name: str, corpus: Corpus) -> None:
    model = made(name)
    run = layers(model, corpus, OPTIONS)
    exact, (_path, tail, capped) = copy.deepcopy(model).double(), ARCHITECTURES[name]
    head = exact.get_output_embeddings()
    known = len(corpus.tokenizer)
    weight = head.weight[:known]
    target = torch.cat([targets for _ids, targets in windows_of(corpus)])
    states = plain_states(name, model, corpus)
    final = capped(head(tail(exact, states[-1])))[:, :known]
    assert len(states) == run.blocks + 1
    assert run.fitted is not None
    fair = torch.from_numpy(
        ~np.isin(numbers_of(run.table("normed", 0)["doc"]), run.fitted.documents)
    )
    assert 0 < int(fair.sum()) < len(fair)
    without_raw = name in ("opt", "gemma2")
    assert run.lenses == (("normed", "fitted") if without_raw else ("normed", "raw", "fitted"))
    for lens, depth in run.places:
        state, kept = states[depth], torch.ones_like(fair)
        if lens == "normed":
            state = tail(exact, state)
        if lens == "fitted":
            one, kept = run.fitted.maps[depth], fair
            state = state @ one.matrix.double().T + one.offset.double()
        scores = head(state)[:, :known]
        want = plain_columns(
            state[kept], scores[kept], capped(scores)[kept], final[kept], weight, target[kept]
        )
        size = 1 + capped(scores)[kept].abs().max(1).values
        check(run, lens, depth, want, size)
    options = AuditOptions(top_k=TOP_K, context=CONTEXT, batch_tokens=128)
    names = ["doc", "pos", *OF_AUDIT, *CANDIDATES]
    last = run.table("normed", run.blocks, names)
    assert last.equals(audit(model, corpus, options).table.select(names))


def check(run: Layers, lens: Any, depth: int, want: dict[str, Tensor], size: Tensor) -> None:
    table = run.table(lens, depth)
    assert {*table.column_names} == {"doc", "pos", *want}
    for column, expected in want.items():
        got = torch.tensor(np.array(table[column].to_pylist()))
        if expected.is_floating_point():
            unit = size if expected.ndim == 1 else size[:, None]
            if column == "hidden_norm":
                unit = expected
            assert ((got - expected).abs() / unit).max() <= BUDGET, (lens, depth, column)
        else:
            assert torch.equal(got, expected), (lens, depth, column)
