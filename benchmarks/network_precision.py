"""How far a bfloat16 backward pass is from a float32 one: gradients, and alignments made of them.

    python benchmarks/network_precision.py                       # the bundled model
    python benchmarks/network_precision.py --model MODEL --text TEXT
    python benchmarks/network_precision.py --made-up             # 4 blocks of width 256, untrained

Every window's gradient of every linear module, whole, by plain autograd: once with the model in
float32, once with weights, activations and errors in bfloat16 (``all``), and once with the weights
in float32 and products in bfloat16, as training by autocast has it (``autocast``). Two tasks are
the first windows of documents of two texts. The cosine of a gradient is that of the two precisions
of one window; alignments are from Gram matrices in float64, without a sketch, and ``itself`` is one
task in both precisions, which is 1 were there no error. ``--json`` prints JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import pydoc_data.topics
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from unembed.demo.story import bundled_model

PRECISIONS = ("float32", "all", "autocast")
HEAD = "head"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=bundled_model())
    parser.add_argument("--made-up", action="store_true", help="a Llama of width 256, not trained")
    parser.add_argument("--text", type=Path, help="a text beside Python's own documentation")
    parser.add_argument("--windows", type=int, default=10, help="of each task")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = made_up(len(tokenizer)) if given.made_up else untied(given.model)
    tasks = [cut(tokenizer, text, given) for text in texts(given.text)]
    each = min(map(len, tasks))
    windows = [window for task in tasks for window in task[:each]]
    with torch.no_grad():
        nll = np.mean([float(loss(model, w)) / (w.shape[1] - 1) for w in windows])
    found: dict[str, dict[str, Tensor]] = {}
    for precision in PRECISIONS:
        found[precision] = gradients(model, windows, precision)
    made = {
        "model": "made up" if given.made_up else name_of(given.model),
        "nll_nats": float(nll),
        "windows": len(windows),
        "rows": [
            {"precision": other, **row}
            for other in PRECISIONS[1:]
            for row in compared(found["float32"], found[other])
        ],
    }
    if given.json:
        print(json.dumps(made, indent=1))
        return
    print(f"{made['model']}: {nll:.2f} nats a token, {len(windows)} windows")
    print("| precision | part | gradient, median | worst | alignment | off by | itself |")
    print("|---|---|---|---|---|---|---|")
    for row in made["rows"]:
        print(
            f"| {row['precision']} | {row['part']} | {row['median']:.6f} | {row['worst']:.6f} "
            f"| {row['alignment']:.4f} | {row['off']:+.1e} | {row['itself']:.6f} |"
        )


def name_of(folder: Path) -> str:
    return "bundled" if folder == bundled_model() else folder.name


def made_up(vocab: int) -> Any:
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).eval()


def untied(folder: Path) -> Any:
    """A model whose head shares its weight with nothing, so that its gradient is its own."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    return model


def texts(path: Path | None) -> list[list[str]]:
    """Documents of two tasks: a text's paragraphs or some of Python's topics, and other topics."""
    topics = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
    topics = [topic for topic in topics if len(topic) > 2000]
    if path is None:
        return [topics[::2], topics[1::2]]
    text = path.read_text(encoding="utf-8")
    return [[text[at : at + 4000] for at in range(0, len(text) - 4000, 8000)], topics]


def cut(tokenizer: Any, documents: list[str], given: argparse.Namespace) -> list[Tensor]:
    """The first window of each document."""
    found = []
    for document in documents:
        ids = tokenizer(document, add_special_tokens=False)["input_ids"][: given.context + 1]
        if len(ids) == given.context + 1:
            found.append(torch.tensor([ids]))
    return found[: given.windows]


def loss(model: Any, ids: Tensor) -> Tensor:
    """The summed cross-entropy of a window, in nats, from float32 logits."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0].float()
    return nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")


def gradients(model: Any, windows: list[Tensor], precision: str) -> dict[str, Tensor]:
    """By module, a row a window."""
    model = copy.deepcopy(model)
    if precision == "all":
        model = model.to(torch.bfloat16)
    head = model.get_output_embeddings()
    weights = {
        HEAD if module is head else name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    rows: dict[str, list[Tensor]] = {name: [] for name in weights}
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "autocast" else nullcontext()
    for window in windows:
        with autocast:
            total = loss(model, window)
        model.zero_grad()
        total.backward()
        for name, weight in weights.items():
            rows[name].append(weight.grad.flatten().float().clone())
    return {name: torch.stack(some) for name, some in rows.items()}


def compared(exact: dict[str, Tensor], other: dict[str, Tensor]) -> list[dict[str, Any]]:
    """A row for the whole, the blocks, each kind of module, each depth, and the worst module."""
    grams = {name: gram(exact[name], other[name]) for name in exact}
    parts = {"full": list(exact), "blocks": list(exact)}
    for name in exact:
        parts.setdefault(name.rsplit(".", 1)[-1], []).append(name)
    for name in exact:
        parts[f"module {name}"] = [name]
        depth = next((piece for piece in name.split(".") if piece.isdigit()), None)
        if depth is not None:
            parts.setdefault(f"depth {depth}", []).append(name)
    found: list[dict[str, Any]] = []
    for part, names in parts.items():
        whole = sum(grams[name] for name in names)
        cosines = cosines_of(whole)
        kernel = whole**2 if part == "full" else sum(grams[name] ** 2 for name in names)
        plain, rough = alignment(kernel, (0, 1)), alignment(kernel, (2, 3))
        found.append(
            {
                "part": part,
                "modules": len(names),
                "median": float(np.median(cosines)),
                "worst": float(cosines.min()),
                "alignment": plain,
                "off": rough - plain,
                "itself": min(alignment(kernel, (0, 2)), alignment(kernel, (1, 3))),
            }
        )
    modules = [row for row in found if row["part"].startswith("module ")]
    worst = min(modules, key=lambda row: float(row["worst"]))
    return [row for row in found if row not in modules or row is worst]


def gram(exact: Tensor, other: Tensor) -> np.ndarray:
    """Products of the rows of both, first the exact ones."""
    rows = torch.cat([exact, other])
    made = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for some in rows.split(1 << 18, 1):
        wide = some.double()
        made += wide @ wide.T
    return made.numpy()


def cosines_of(kernel: np.ndarray) -> np.ndarray:
    """Of each window in one precision with itself in the other."""
    n = len(kernel) // 2
    own, at = np.sqrt(np.diag(kernel)), np.arange(n)
    return np.asarray(kernel[at, at + n] / (own[:n] * own[n:]))


def alignment(kernel: np.ndarray, pair: tuple[int, int]) -> float:
    """Of two of four tasks: both exactly, then both in the other precision.

    Pairs of a window with itself count in no mean, so that no norm is that of few windows.
    """
    n = len(kernel) // 4
    rows, columns = (slice(i * n, (i + 1) * n) for i in pair)
    others = ~np.eye(n, dtype=bool)
    norms = kernel[rows, rows][others].mean() * kernel[columns, columns][others].mean()
    over = kernel[rows, columns]
    product = (over[others] if pair[1] - pair[0] == 2 else over).mean()
    return float(product / math.sqrt(norms))


if __name__ == "__main__":
    main()
