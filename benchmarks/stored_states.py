"""What an audit of stored states holds, beside one of the text: it must not go with the blocks.

    python benchmarks/stored_states.py TEXT
    python benchmarks/stored_states.py TEXT --blocks 24 --width 768 --vocabulary 32000

A random Llama of so many blocks is saved in shards, with the bundled model's tokenizer, and each
command is a fresh process on one thread: ``unembed states`` of the text, ``unembed audit`` of it,
and ``unembed audit --hidden``. ``peak_mib`` is the most that the process had in memory at a time,
with Python, torch and transformers, which the audit of a model of one narrow block shows alone
(``libraries_mib``); ``same`` says whether the two audits wrote the same tables.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--positions", type=int, default=4_000)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--dtype", default="bfloat16")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model, states = place / "model", place / "states"
        size = save_model(model, given)
        how = ["--max-positions", str(given.positions), "--context", str(given.context)]
        commands = {
            "states": ["states", model, given.text, "-o", states, *how],
            "audit": ["audit", model, given.text, "-o", place / "direct", "--slices", "0", *how],
            "audit_hidden": [
                *("audit", model, "--hidden", states, "-o", place / "stored", "--slices", "0")
            ],
        }
        found = {name: measured([str(word) for word in words]) for name, words in commands.items()}
        narrow = argparse.Namespace(**{**vars(given), "blocks": 1, "width": 64})
        save_model(place / "narrow", narrow)
        small = [
            "audit",
            place / "narrow",
            given.text,
            "-o",
            place / "small",
            "--slices",
            "0",
            *how,
        ]
        libraries = measured([str(word) for word in small])["peak_mib"]
        tables = [sorted((place / one / "tokens").iterdir()) for one in ("direct", "stored")]
        same = [one.read_bytes() for one in tables[0]] == [one.read_bytes() for one in tables[1]]
        stored = sum(one.stat().st_size for one in (states / "states").iterdir()) / MIB
    sizes = {"model_mib": round(size), "states_mib": round(stored, 1), "libraries_mib": libraries}
    print(json.dumps({**sizes, **found, "same": same}, indent=1))


def save_model(folder: Path, given: argparse.Namespace) -> float:
    """A random model in shards, and its size in MiB."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from unembed.demo.story import bundled_model
    from unembed.models.checkpoint import load_tokenizer

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=given.vocabulary,
        hidden_size=given.width,
        intermediate_size=4 * given.width,
        num_hidden_layers=given.blocks,
        num_attention_heads=given.width // 64,
        num_key_value_heads=given.width // 64,
        max_position_embeddings=2048,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, given.dtype))
    model.save_pretrained(folder, max_shard_size="200MB")
    load_tokenizer(str(bundled_model())).save_pretrained(folder)
    return sum(one.nbytes for one in model.parameters()) / MIB


def measured(words: list[str]) -> dict[str, Any]:
    """Time and peak of one command."""
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "unembed", *words, "--quiet"],
        stdout=subprocess.DEVNULL,
        env=alone,
    )
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, field(status, "VmHWM") * 1024)
            process.wait(0.02)
        except (subprocess.TimeoutExpired, OSError):
            continue
    if process.returncode:
        raise SystemExit(f"{words[0]} ended with {process.returncode}")
    return {"peak_mib": round(peak / MIB), "seconds": round(perf_counter() - start, 1)}


def field(text: str, name: str) -> int:
    """A number of a file of /proc."""
    found = [line.split()[1] for line in text.splitlines() if line.startswith(f"{name}:")]
    return int(found[0]) if found else 0


if __name__ == "__main__":
    main()
