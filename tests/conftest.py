"""Real models and a real tokenizer, built once and saved to disk."""

from __future__ import annotations

import gc
import os
import pydoc_data.topics
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests that start themselves as a program import what lies beside this file.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH")))
)

import pytest
import torch

import type_checks  # noqa: F401  before anything of the package is imported
from browser import chromium, opened
from command_line import run
from places import SHARED

__all__ = ["chromium", "opened", "run"]

VOCAB = 480
CONTEXT = 64


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what is loaded now, millions of objects, out of every later search for garbage.

    The Trainer asks for a whole one after each training, and half a second of each was torch's own.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def topics() -> list[str]:
    """Real English text that every Python carries: some documentation topics, a paragraph each."""
    names = ("assert", "if", "lambda", "with")
    text = "\n\n".join(pydoc_data.topics.topics[name] for name in names)
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]


def train_tokenizer(texts: list[str], size: int) -> Any:
    """A byte-level BPE tokenizer of this many tokens."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=size, show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer)


@pytest.fixture(scope="session")
def tokenizer(topics: list[str]) -> Any:
    """A tokenizer trained on the topics, three tokens short of the small Llama's vocabulary."""
    return train_tokenizer(topics, VOCAB - 3)


@pytest.fixture(scope="session")
def small_tokenizer(topics: list[str]) -> Any:
    """A tokenizer of 290 tokens, for models with a vocabulary of 300."""
    return train_tokenizer(topics, 290)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Callable[..., Path]:
    """Save a model with the tokenizer and return its folder."""

    def save(model: Any, tokenizer: Any = tokenizer) -> Path:
        folder: Path = tmp_path_factory.mktemp(type(model).__name__)
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def llama() -> Any:
    """A small random Llama whose head has three padded rows."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def llama_folder(llama: Any, checkpoint: Callable[..., Path]) -> Path:
    return checkpoint(llama)


@pytest.fixture(scope="session")
def gpt2() -> Any:
    """GPT-2's own byte-level BPE tokenizer."""
    from transformers import PreTrainedTokenizerFast

    beside = SHARED / "tokenizers"
    folder = Path(os.environ.get("UNEMBED_TOKENIZERS", beside)) / "gpt2"
    if not (folder / "merges.txt").exists():
        pytest.skip(f"{folder} is not here; UNEMBED_TOKENIZERS names its parent")
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer)


@pytest.fixture(scope="session")
def bundled() -> Any:
    """The bundled model's tokenizer."""
    from unembed.demo.story import bundled_model
    from unembed.models.checkpoint import load_tokenizer

    return load_tokenizer(bundled_model())
