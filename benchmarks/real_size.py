"""An audit of a checkpoint of a real model's size against a plain loop: whole processes.

    python benchmarks/real_size.py --tokenizer GPT2_FOLDER --text wikitext2-valid.txt
    python benchmarks/real_size.py --model CHECKPOINT --text wikitext2-valid.txt --positions 3000

Without ``--model`` the checkpoint is random, bfloat16, of Qwen3-0.6B's shape: 28 layers, 1,024
wide, 151,936 tokens. ``audit`` is the command line with its summary and page. ``rows`` is what
people write: the text's rows one after the other, the model's own head, full float32 logits, topk,
log_softmax and entropy, and the columns in a file. Each measurement is a fresh process that loads
the checkpoint from disk, the peers alternate, and a ratio is that of two runs in a row.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

PEERS = ("audit", "rows")
KINDS = ("wall", "processor")
"""Where other work runs on the machine, processor time says more."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="checkpoint folder [random, Qwen3-0.6B's shape]")
    parser.add_argument("--tokenizer", type=Path, help="folder, of the random checkpoint")
    parser.add_argument("--text", type=Path, required=True, help="a .txt file, a row a line")
    parser.add_argument("--positions", type=int, nargs="+", default=[12_000, 3_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--json", type=Path, help="write every run to this file")
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rows is not None:
        row_by_row(given.model, given.text, given.rows)
        return
    if given.model is None and given.tokenizer is None:
        parser.error("give --model, or --tokenizer for a random one")
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or random_model(Path(folder) / "model", given.tokenizer, given.layers)
        found = {
            positions: [
                {peer: seconds_of(peer, model, given.text, positions) for peer in PEERS}
                for _ in range(given.repeats)
            ]
            for positions in given.positions
        }
    if given.json is not None:
        given.json.write_text(json.dumps({"layers": given.layers, "runs": found}, indent=1))
    print(
        "| positions | of | audit, s | plain loop, s | plain loop / audit |\n|---|---|---|---|---|"
    )
    for positions, runs in found.items():
        for kind in KINDS:
            audit, rows = (statistics.median(run[peer][kind] for run in runs) for peer in PEERS)
            ratios = [run["rows"][kind] / run["audit"][kind] for run in runs]
            pairs = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            shown = f"{statistics.median(ratios):.2f} (pairs {pairs})"
            print(f"| {positions:,} | {kind} time | {audit:.1f} | {rows:.1f} | {shown} |")


def random_model(folder: Path, tokenizer: Path, layers: int) -> Path:
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def seconds_of(peer: str, model: Path, text: Path, positions: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as out:
        if peer == "audit":
            command = [sys.executable, "-m", "unembed", "audit", str(model), str(text)]
            command += ["-o", f"{out}/run", "--max-positions", str(positions), "--quiet"]
        else:
            command = [sys.executable, __file__, "--model", str(model), "--text", str(text)]
            command += ["--rows", str(positions)]
        before, start = os.times(), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        wall, after = time.perf_counter() - start, os.times()
        user, system = after.children_user, after.children_system
        spent = user + system - before.children_user - before.children_system
        return {"wall": wall, "processor": spent}


def row_by_row(folder: Path, text: Path, positions: int) -> None:
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    context, left, kept = min(2048, model.config.max_position_embeddings), positions, []
    lines = [line for line in text.read_text().split("\n") if line.strip()]
    with torch.inference_mode():
        for line in lines:
            row = tokenizer(line, return_tensors="pt").input_ids[:, : min(context, left + 1)]
            if row.shape[1] < 2:
                continue
            logits = model(input_ids=row).logits[0, :-1].float()
            values, ids = logits.topk(5)
            log_p = logits.log_softmax(-1)
            entropy = -(log_p.exp() * log_p).sum(-1)
            nll = -log_p.gather(1, row[0, 1:, None])[:, 0]
            kept.append([column.numpy() for column in (values, ids, nll, entropy)])
            left -= len(nll)
            if left <= 0:
                break
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, *[np.concatenate(column) for column in zip(*kept, strict=True)])


if __name__ == "__main__":
    main()
