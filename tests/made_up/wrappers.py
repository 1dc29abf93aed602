"""Small language models with towers for images around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as tf

TEXT = {
    "vocab_size": 480,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
ROTARY = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
}
TOWER = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
         "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
QWEN_TOWER = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
              "out_hidden_size": 48}  # fmt: skip
MARKS = {"image_token_id": 470, "video_token_id": 471}

WRAPPERS: dict[str, Callable[[], Any]] = {
    "qwen2.5-vl": lambda: tf.Qwen2_5_VLForConditionalGeneration(
        tf.Qwen2_5_VLConfig(text_config={**TEXT, **ROTARY}, **MARKS,
                            vision_config={**QWEN_TOWER, "fullatt_block_indexes": [0]})
    ),
    "qwen3-vl": lambda: tf.Qwen3VLForConditionalGeneration(
        tf.Qwen3VLConfig(text_config={**TEXT, **ROTARY}, **MARKS,
                         vision_config={**QWEN_TOWER, "deepstack_visual_indexes": [0]})
    ),
    "qwen3.5": lambda: tf.Qwen3_5ForConditionalGeneration(
        tf.Qwen3_5Config(text_config={**TEXT, **ROTARY, "linear_num_key_heads": 2,
                                      "linear_num_value_heads": 2, "linear_key_head_dim": 16,
                                      "linear_value_head_dim": 16,
                                      "layer_types": ["linear_attention", "full_attention"]},
                         vision_config=QWEN_TOWER, **MARKS)
    ),
    "llava": lambda: tf.LlavaForConditionalGeneration(
        tf.LlavaConfig(text_config=tf.LlamaConfig(**TEXT), image_token_index=470,
                       vision_config=tf.CLIPVisionConfig(**{**TOWER, "num_hidden_layers": 2}))
    ),
}  # fmt: skip
