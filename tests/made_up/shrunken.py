"""A small model of any causal type that transformers knows, from its configuration's own names."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers as tf
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

CAUSAL_TYPES: tuple[str, ...] = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCAB = 300
MOST_PARAMETERS = 5_000_000

SIZES = {
    VOCAB: """vocab_size decoder_vocab_size vocab_size_per_layer_input type_vocab_size
        unpadded_vocab_size vocab_offset""",
    32: """hidden_size d_model n_embd embedding_size embed_dim emb_dim embedding_dim out_hidden_size
        word_embed_proj_dim input_embedding_size output_embedding_size backbone_hidden_size
        lru_width attention_hidden_size hidden_size_global pronunciation_embed_dim shape_embed_dim
        input_size ple_embed_dim mamba_d_ssm vision_output_dim index_head_dim""",
    64: """intermediate_size ffn_dim d_ff dim_ff dff d_inner decoder_ffn_dim encoder_ffn_dim
        ffn_hidden_size feed_forward_size mlp_dim intermediate_size_mlp dense_intermediate_size
        max_position_embeddings n_positions n_ctx max_seq_len seq_length context_length
        model_max_length max_source_positions max_target_positions""",
    16: """moe_intermediate_size shared_intermediate_size expert_ffn_hidden_size
        shared_expert_intermediate_size shared_experts_intermediate_size q_lora_rank kv_lora_rank
        moe_shared_expert_intermediate_size hidden_size_per_layer_input o_lora_rank
        router_hidden_size adapter_rank hc_lowrank laurel_rank sliding_window
        sliding_window_size attention_window_size window_size local_attention chunk_size
        mamba_chunk_size state_size ssm_state_size mamba_d_state""",
    8: """head_dim dim_head kv_channels d_head d_kv attention_head_size v_head_dim qk_nope_head_dim
        qk_rope_head_dim rotary_dim swa_head_dim linear_key_head_dim linear_value_head_dim
        linear_head_dim time_step_rank mamba_dt_rank d_rel rel_extent attention_head_dim
        mamba_head_dim""",
    4: """num_attention_heads n_head n_heads num_heads decoder_attention_heads
        encoder_attention_heads attention_heads num_encoder_attention_heads
        num_decoder_attention_heads swa_num_attention_heads num_local_experts num_experts
        n_routed_experts moe_num_experts zero_expert_num linear_num_value_heads linear_num_heads
        num_query_groups index_topk""",
    2: """num_key_value_heads kv_n_heads num_kv_heads num_experts_per_tok num_experts_per_token
        moe_topk moe_k moe_top_k num_global_layers linear_num_key_heads swa_num_key_value_heads
        num_layers_per_stack index_n_heads""",
    1: """n_group topk_group num_expert_group n_shared_experts num_shared_experts o_groups
        first_k_dense_replace num_nextn_predict_layers n_groups mamba_n_groups mamba_ngroups
        num_dense_layers moe_num_shared_experts num_kv_shared_layers""",
}
SIZE_OF = {name: size for size, names in SIZES.items() for name in names.split()}
DEPTHS = [
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "decoder_layers",
    "encoder_layers",
    "num_blocks",
    "num_decoder_layers",
    "num_encoder_layers",
    "depth",
]
KINDS_OF_LAYERS = [
    "layer_types",
    "layers_block_type",
    "block_types",
    "mlp_layer_types",
    "indexer_types",
]

EIGHT_WIDE = {"head_dim": 8}
NONE_SHARED = {"num_kv_shared_layers": 0}
EIGHT_HEADS = {"mamba_n_heads": 8, "mamba_d_head": 8}
ZAMBA = {
    "num_hidden_layers": 4,
    "layers_block_type": ["linear_attention", "hybrid"] * 2,
    "attention_hidden_size": 64,
    "attention_head_dim": 16,
    "num_key_value_heads": 4,
}
OWN: dict[str, dict[str, Any]] = {
    "bamba": EIGHT_HEADS,
    "blt": {"encoder_hash_byte_group_vocab": 100},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4}
            for kind in ("full_attention", "sliding_attention")
        }
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_n_heads": 4, "mamba_d_head": 8},
    "gemma3n_text": NONE_SHARED,
    "gemma4_text": NONE_SHARED,
    "gemma4_unified_text": NONE_SHARED,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": EIGHT_HEADS,
    "hunyuan_v1_dense": EIGHT_WIDE,
    "hunyuan_v1_moe": EIGHT_WIDE,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "n_groups": 2},
    "ministral": EIGHT_WIDE,
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        "ngram_vocab_size_base": 100,
    },
    "reformer": {
        "axial_pos_embds_dim": (16, 16),
        "axial_pos_shape": (8, 8),
        "attn_layers": ["local", "lsh"],
        "lsh_attn_chunk_length": 8,
        "local_attn_chunk_length": 8,
    },
    "xlm": {"causal": True},
    "xmod": {"default_language": "en_XX"},
    "youtu": {"pad_token_id": None},  # it loads the row of the padding token as zeros
    "zamba": ZAMBA,
    "zamba2": {**ZAMBA, "hybrid_layer_ids": [1, 3], "mamba_headdim": 8, "n_mamba_heads": 8},
    "zaya": {"num_experts_per_tok": 1},
}
"""What a configuration needs beside its sizes, by its type."""


def shrunken(name: str, auto: Any = tf.AutoModelForCausalLM, most: int = MOST_PARAMETERS) -> Any:
    """A model of this causal type, on random weights that set its decisions apart.

    Raises what transformers raises where its configuration does not fit, and ValueError where the
    model would not be small.
    """
    kind: Any = tf.CONFIG_MAPPING[name]
    config = kind(**_settings(kind))
    with torch.device("meta"):
        parameters = sum(p.numel() for p in auto.from_config(config).parameters())
    if parameters > most:
        raise ValueError(f"{parameters} parameters are not small")
    torch.manual_seed(0)
    model = auto.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.float().eval()


def _settings(kind: Any) -> dict[str, Any]:
    """Settings of a configuration class that make a small model, those of its parts included."""
    default = kind()
    known = default.to_dict()
    settings = {name: size for name, size in SIZE_OF.items() if type(known.get(name)) is int}
    for name, value in known.items():
        if name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            settings[name] = 0
        elif name.endswith(("token_id", "token_index")) and type(value) is int and value >= VOCAB:
            settings[name] = VOCAB - 1 - len(settings) % 9  # beyond the tokenizer's
    if "is_decoder" in {*inspect.signature(kind.__init__).parameters, *known}:
        settings["is_decoder"] = True
    if "kv_lora_rank" in settings:
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    parts = {name: getattr(default, name, None) for name in getattr(kind, "sub_configs", {})}
    nested = {
        name: {**_settings(type(part)), "model_type": part.model_type}
        for name, part in parts.items()
        if part is not None
    }
    kinds = {name: list(dict.fromkeys(known.get(name) or ())) for name in KINDS_OF_LAYERS}
    depth = max(2, *map(len, kinds.values()))
    layers = {name: (found * depth)[:depth] for name, found in kinds.items() if found}
    depths = {name: depth for name in DEPTHS if type(known.get(name)) is int}
    return {**settings, **nested, **layers, **depths, **OWN.get(kind.model_type, {})}
