"""Columns of a made-up model at every depth: logits that walk from noise to the final ones."""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Sequence
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np

from unembed.decisions.layers import layers as room
from unembed.decisions.layers.compare import LayersComparison, NotCompared
from unembed.decisions.layers.depth_changes import lens_change
from unembed.decisions.layers.layers import Layers
from unembed.decisions.layers.options import LayersOptions
from unembed.decisions.layers.settling_changes import settling_change
from unembed.decisions.layers.stack import LensStack
from unembed.decisions.tokens import CLASSES, frequency_buckets
from unembed.text.corpus import Corpus


def made_stack(
    documents: int = 8,
    *,
    blocks: int = 4,
    depths: Sequence[int] | None = None,
    vocab: int = 12,
    seed: int = 0,
    lens: str = "normed",
    change: float = 0.0,
) -> LensStack:
    """Documents of uneven length and difficulty; the last depth's logits are the model's own.

    With ``change`` another model's at the same positions: noise is added to the logits of every
    depth.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 30, documents)
    doc = np.repeat(np.arange(documents) * 3 + 1, lengths)
    pos = np.concatenate([np.arange(length) + 1 for length in lengths])
    n = len(doc)
    scale = np.repeat(rng.gamma(4, 0.5, documents), lengths)[:, None]
    final = scale * rng.normal(size=(n, vocab))
    law = softmax(final)
    target = np.array([rng.choice(vocab, p=row) for row in law])
    rows = rng.normal(size=(vocab, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    spread = 1 - rows @ rows.T
    wanted = tuple(range(blocks + 1)) if depths is None else tuple(depths)
    noise, found = rng.normal(size=(n, vocab)), []
    moved = np.random.default_rng(seed + 1).normal(size=(n, vocab)) * change
    final = final + moved
    law = softmax(final)
    for depth in range(blocks + 1):
        part = (depth / blocks) ** 2
        noise = noise + 0.5 * rng.normal(size=(n, vocab))
        logits = final if depth == blocks else part * final + (1 - part) * (noise + moved)
        if depth in wanted:
            found.append(_columns(logits, law, final.argmax(1), target, spread))
    stacked = {name: np.stack([one[name] for one in found]) for name in found[0]}
    ordered = np.sort(final, axis=1)
    return LensStack(
        lens=lens,
        depths=wanted,
        blocks=blocks,
        doc=doc,
        pos=pos,
        target=target,
        **stacked,
        final_top1=final.argmax(1),
        final_nll=-np.log(law[np.arange(n), target]).astype(np.float32),
        final_margin=(ordered[:, -1] - ordered[:, -2]).astype(np.float32),
    )


def stack_of(doc: np.ndarray, top1: np.ndarray, final_top1: np.ndarray) -> LensStack:
    """A stack of which only the decisions matter; all other columns are 0."""
    zeros = np.zeros(top1.shape, dtype=np.float32)
    whole = {name: zeros.astype(np.int64) for name in ("rank", "final_rank")}
    numbers = ("margin", "relative_distance", "nll", "entropy", "kl_final", "acceptance")
    return LensStack(
        lens="made up",
        depths=tuple(range(len(top1))),
        blocks=len(top1) - 1,
        doc=doc,
        pos=np.arange(doc.size),
        target=np.zeros_like(final_top1),
        top1=top1,
        **whole,
        **dict.fromkeys((*numbers, "cosine_penalty", "fisher_penalty"), zeros),
        final_top1=final_top1,
        final_nll=zeros[0],
        final_margin=zeros[0],
    )


def make_layers_comparison(
    change: float = 0.4, documents: int = 14, *, resamples: int = 60
) -> LayersComparison:
    """Two made-up models under two lenses, the third measured before alone."""
    changes = []
    for lens in ("normed", "raw"):
        pair = [made_stack(documents, lens=lens, change=size) for size in (0.0, change)]
        changes.append((lens_change(*pair, resamples=resamples), pair))
    own = changes[0][1]
    classes = np.arange(own[0].n) % len(CLASSES)
    settled = settling_change(*own, classes, frequency_buckets(own[0].target), resamples=resamples)
    return LayersComparison(
        before="example/base",
        after="example/int8",
        blocks=own[0].blocks,
        depths=own[0].depths,
        n_positions=own[0].n + 2,
        n_documents=documents,
        n_left_out=2,
        lenses=tuple(one for one, _ in changes),
        not_compared=(NotCompared("fitted", "not measured after: it was not asked for"),),
        settling=settled,
        notes=("the model's dtype differs: float32 before, bfloat16 after",),
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of each row of logits."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    law: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return law


def _columns(
    logits: np.ndarray, law: np.ndarray, top: np.ndarray, target: np.ndarray, spread: np.ndarray
) -> dict[str, np.ndarray]:
    here, each = softmax(logits), np.arange(len(logits))
    ordered = np.sort(logits, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    weights = np.einsum("ni,ij,nj->n", here, spread, here)
    columns = {
        "margin": margin,
        "relative_distance": margin / np.linalg.norm(logits, axis=1),
        "nll": -np.log(here[each, target]),
        "entropy": -(here * np.log(here)).sum(1),
        "kl_final": np.maximum((law * np.log(law / here)).sum(1), 0),
        "acceptance": np.minimum(np.minimum(law, here).sum(1), 1),
        "cosine_penalty": weights,
        "fisher_penalty": np.sqrt(weights) * (1 - (here**2).sum(1)),
    }
    whole = {
        "top1": logits.argmax(1),
        "rank": 1 + (logits > logits[each, target][:, None]).sum(1),
        "final_rank": 1 + (logits > logits[each, top][:, None]).sum(1),
    }
    return {name: one.astype(np.float32) for name, one in columns.items()} | whole


RESAMPLES = 60
"""Of the summary of ``make_layers``: enough for intervals, which nobody reads."""


@cache
def make_layers(blocks: int = 3, documents: int = 14, points: int = 160) -> Layers:
    """A real run in memory, of a small random model: every figure is there, and none means much."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=blocks,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    options = LayersOptions(context=32, batch_tokens=512, top_k=4, cloud_points=points)
    with patch.object(room, "LAYERS_RESAMPLES", RESAMPLES):
        found = room.layers(model, Corpus.from_texts(_texts()[:documents], tokenizer), options)
        assert found.summary.n_documents == documents
    return found


def _texts() -> list[str]:
    names = ("assert", "if", "lambda", "with", "class", "import")
    text = "\n\n".join(pydoc_data.topics.topics[name] for name in names)
    whole = [" ".join(one.split())[:160] for one in text.split("\n\n")]
    return [one for one in whole if len(one) > 60]


def _tokenizer() -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(_texts(), vocab_size=258, show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer)
