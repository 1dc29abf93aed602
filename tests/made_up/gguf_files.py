"""A small model in a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch


def write_gguf(gguf: Any, tokenizer: Any, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A small Llama in 8 bits as llama.cpp stores it, and its weights by the format's own word."""
    folder.mkdir()
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(16)
    made = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = sorted(made["vocab"], key=made["vocab"].get)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([1] * len(words))
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in made["merges"]])
    shapes = {"token_embd": (len(words), 64), "output": (len(words), 64)}
    shapes |= {
        f"blk.0.attn_{n}": (64 if n in ("q", "output") else 32, 64)
        for n in ("q", "k", "v", "output")
    }
    shapes |= {"blk.0.ffn_gate": (96, 64), "blk.0.ffn_up": (96, 64), "blk.0.ffn_down": (64, 96)}
    random, kind = np.random.default_rng(0), gguf.GGMLQuantizationType.Q8_0
    stored = {}
    for name, shape in shapes.items():
        blocks = gguf.quants.quantize(random.normal(size=shape, scale=0.2).astype(np.float32), kind)
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=kind)
        stored[f"{name}.weight"] = torch.from_numpy(gguf.quants.dequantize(blocks, kind))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "model.gguf", stored
