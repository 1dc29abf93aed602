"""Round a checkpoint to four bits by GPTQ on a CPU, in groups of 32 at most, for a ladder.

    pip install llmcompressor
    python examples/gptq.py runs/gptq                              # the bundled model
    python examples/gptq.py runs/stories-gptq MODEL text.txt
    unembed compare MODEL runs/gptq text.txt --quantize int4 -o runs/four-bits

Calibrated on 256 windows of 256 tokens of text that no audit should read; the head stays whole.
"""

from __future__ import annotations

import argparse
import math
from itertools import islice
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

from unembed.demo import bundled_model, documents

WINDOWS, TOKENS = 256, 256
FOUR_BITS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"}


def main() -> None:
    """Calibrate, round and save, with the tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("model", nargs="?", default=str(bundled_model()))
    parser.add_argument("text", nargs="?", type=Path)
    given = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(given.model)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    if given.text is None:
        text = "\n".join(one.text for one in islice(documents("train"), 0, None, 20))
    else:
        text = given.text.read_text(encoding="utf-8")
    ids = tokenizer(text, add_special_tokens=False).input_ids
    rows = [ids[start : start + TOKENS] for start in range(0, len(ids) - TOKENS, TOKENS)]
    chosen = rows[:: max(1, len(rows) // WINDOWS)][:WINDOWS]
    linear = (one for one in model.modules() if isinstance(one, torch.nn.Linear))
    group = math.gcd(32, *(one.in_features for one in linear))
    weights = FOUR_BITS | {"group_size": group}
    recipe = GPTQModifier(
        config_groups={"all": {"targets": ["Linear"], "weights": weights}}, ignore=["lm_head"]
    )
    oneshot(
        model=model,
        dataset=Dataset.from_list([{"input_ids": row} for row in chosen]),
        recipe=recipe,
        max_seq_length=TOKENS,
        num_calibration_samples=len(chosen),
    )
    model.save_pretrained(given.out, save_compressed=True)
    tokenizer.save_pretrained(given.out)


if __name__ == "__main__":
    main()
