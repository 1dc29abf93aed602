"""A small random model of every architecture that people use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf

SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def _with(drop: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    return {k: v for k, v in {**SMALL, **more}.items() if k not in drop}


ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**SMALL)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(
        tf.Qwen3Config(**_with(head_dim=8, tie_word_embeddings=True))
    ),
    "gemma2": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**_with(head_dim=8))),
    "gemma3": lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**_with(head_dim=8))),
    "cohere": lambda: tf.CohereForCausalLM(tf.CohereConfig(**_with(logit_scale=0.0625))),
    "granite": lambda: tf.GraniteForCausalLM(tf.GraniteConfig(**_with(logits_scaling=13.0))),
    "gpt2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=64,
                      bos_token_id=0, eos_token_id=0)
    ),
    "gpt_neox": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**_with(("num_key_value_heads",)))),
    "opt": lambda: tf.OPTForCausalLM(
        tf.OPTConfig(vocab_size=300, hidden_size=32, word_embed_proj_dim=16, ffn_dim=64,
                     num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
                     bos_token_id=0, eos_token_id=0, pad_token_id=1)
    ),
    "phi": lambda: tf.PhiForCausalLM(tf.PhiConfig(**SMALL)),
    "mamba": lambda: tf.MambaForCausalLM(
        tf.MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=4,
                       bos_token_id=0, eos_token_id=0, pad_token_id=0)
    ),
    "mixtral": lambda: tf.MixtralForCausalLM(tf.MixtralConfig(**_with(num_local_experts=4))),
    "qwen3_next": lambda: tf.Qwen3NextForCausalLM(
        tf.Qwen3NextConfig(**_with(num_hidden_layers=4, head_dim=8, num_experts=4,
                                   num_experts_per_tok=2, moe_intermediate_size=16,
                                   shared_expert_intermediate_size=16,
                                   linear_num_key_heads=2, linear_num_value_heads=4,
                                   linear_key_head_dim=8, linear_value_head_dim=8))
    ),
}  # fmt: skip


def small_model(name: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = ARCHITECTURES[name]()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    if name == "phi":
        torch.nn.init.normal_(model.lm_head.bias)
    return model.to(dtype).eval()


def longrope_model() -> Any:
    """Other rotary factors for rows of more than 16 tokens, as Phi-3 has beyond 4,096."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tf.Phi3ForCausalLM(
            tf.Phi3Config(
                vocab_size=480,
                hidden_size=48,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                original_max_position_embeddings=16,
                rope_parameters={
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "short_factor": [1.0] * 6,
                    "long_factor": [4.0, 6.0, 8.0, 12.0, 16.0, 24.0],
                    "original_max_position_embeddings": 16,
                },
                initializer_range=0.2,
                bos_token_id=0,
                eos_token_id=0,
                pad_token_id=0,
            )
        ).eval()
