"""The table of docs/findings.md: one Llama in bf16, int8, int4 and two GGUF types, beside it.

    pip install gguf torchao
    python examples/ladder.py runs/ladder                          # the bundled model
    python examples/ladder.py runs/stories MODEL wikitext2-valid.txt

The GGUF files are written here, as llama.cpp stores a Llama: queries and keys in its order of
rotary pairs, norms in float32, every matrix in blocks of 32 weights.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoTokenizer

from unembed import Checkpoint, Corpus, ladder, load
from unembed.decisions import AuditOptions, Variant
from unembed.demo import bundled_model, documents

TYPES = ("Q8_0", "Q4_0")
CHARACTERS = 4_000


def main() -> None:
    """Write the files, measure the ladder, print its verdict and its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("model", nargs="?", default=str(bundled_model()))
    parser.add_argument("text", nargs="?")
    parser.add_argument("--positions", type=int)
    given = parser.parse_args()
    files = given.out.with_name(f"{given.out.name}-gguf")
    files.mkdir(parents=True, exist_ok=True)
    for kind in TYPES:
        if not (files / f"{kind}.gguf").exists():
            write(load(given.model, dtype="float32"), files / f"{kind}.gguf", kind)
    base = Variant("base", given.model)
    variants = [base.rounded(scheme) for scheme in ("bf16", "int8", "int4")]
    variants += [Variant.of(str(files / f"{kind}.gguf")) for kind in TYPES]
    options = AuditOptions(context=256, max_positions=given.positions)
    done = ladder(base, variants, text_of(given), options, out=given.out, progress=True)
    print(done.verdict, done, sep="\n\n")


def text_of(given: argparse.Namespace) -> Corpus:
    """The beginnings of a WikiText file's articles, or of text that the bundled model never saw."""
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    if given.text is None:
        found = {one.name: one.text for one in documents("heldout")}
    else:
        whole = Path(given.text).read_text(encoding="utf-8")
        _first, *parts = re.split(r"^ = ([^=\n]+) = *$", whole, flags=re.MULTILINE)
        found = dict(zip(parts[::2], parts[1::2], strict=True))
    texts = [one[:CHARACTERS] for one in found.values()]
    return Corpus.from_texts(texts, tokenizer, names=list(found))


def write(checkpoint: Checkpoint, file: Path, kind: str) -> None:
    """Save a Llama as a GGUF file whose matrices are of one type."""
    config: Any = checkpoint.model.config
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    add_tokens(writer, checkpoint.tokenizer)
    weights = checkpoint.model.state_dict()
    put(writer, "token_embd", weights["model.embed_tokens.weight"], kind)
    if not config.tie_word_embeddings:
        put(writer, "output", weights["lm_head.weight"], kind)
    put(writer, "output_norm", weights["model.norm.weight"], kind)
    for layer in range(config.num_hidden_layers):
        own = f"model.layers.{layer}."
        for name, ours in NAMES.items():
            weight = weights[f"{own}{ours}.weight"]
            if name in ("attn_q", "attn_k"):
                weight = paired(weight, heads if name == "attn_q" else groups)
            put(writer, f"blk.{layer}.{name}", weight, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def paired(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows in the order of llama.cpp: the two halves of a head's rotary pairs side by side."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def put(writer: Any, name: str, weight: torch.Tensor, kind: str) -> None:
    """A matrix in blocks, where its rows are made of whole ones; else in float32."""
    plain = weight.float().numpy()
    if plain.ndim < 2 or plain.shape[1] % 32:
        writer.add_tensor(f"{name}.weight", plain.astype(np.float32))
        return
    how = gguf.GGMLQuantizationType[kind]
    writer.add_tensor(f"{name}.weight", gguf.quants.quantize(plain, how), raw_dtype=how)


def add_tokens(writer: Any, tokenizer: Any) -> None:
    """The vocabulary, byte by byte or of pieces with bytes to fall back on."""
    made = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    special = set(tokenizer.all_special_tokens)
    if made.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([-float(at) for at in range(len(words))])
        types = [3 if w in special else 6 if w.startswith("<0x") else 1 for w in words]
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        merges = [one if isinstance(one, str) else " ".join(one) for one in made["merges"]]
        writer.add_token_merges(merges)
        types = [3 if word in special else 1 for word in words]
    writer.add_token_list(words)
    writer.add_token_types(types)
    for name in ("bos", "eos"):
        token = getattr(tokenizer, f"{name}_token_id")
        if token is not None:
            getattr(writer, f"add_{name}_token_id")(token)


if __name__ == "__main__":
    main()
