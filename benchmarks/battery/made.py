"""A small model, texts and one finished artefact of each kind, made once for a whole battery."""

from __future__ import annotations

import argparse
import pydoc_data.topics
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import Ended, call, in_fork, scratch, table, warm

WINDOWS = ("--context", "32", "--quiet")
SKETCH = ("--size", "256", *WINDOWS)
TRAINING = ("--steps", "3", "--batch-size", "2", "--watch-every", "2", "--learning-rate", "1e-3")


@dataclass(frozen=True)
class Artefact:
    """What a command makes: its kind, its path, the command, and the command that reads it back.

    ``argv`` and ``read`` hold the path as the placeholder ``OUT``, so that either can be pointed at
    a copy.
    """

    kind: str
    path: Path
    argv: tuple[str, ...]
    read: tuple[str, ...]

    def made_at(self, place: Path) -> list[str]:
        """The command that makes it somewhere else."""
        return [word.replace("OUT", str(place)) for word in self.argv]

    def read_at(self, place: Path) -> list[str]:
        """The command that reads it from somewhere else."""
        return [word.replace("OUT", str(place)) for word in self.read]


@dataclass(frozen=True)
class Made:
    """The model, the texts, and the artefacts by kind."""

    place: Path
    model: Path
    texts: tuple[Path, ...]
    artefacts: dict[str, Artefact]


Outcomes = tuple[dict[str, dict[str, int]], list[str]]
"""Counts of outcomes by kind, and a line for each outcome that must not be."""


def battery(
    doc: str,
    title: str,
    option: str,
    default: int,
    tries: Callable[[Made, Path, int, int], Outcomes],
) -> int:
    """Parse ``option`` and ``--seed``, make everything, try, and print; the exit status is 1 where
    an outcome must not be.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument(option, dest="count", type=int, default=default)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warm()
    place = scratch("battery")
    counts, bad = tries(made(place / "made"), place, given.count, given.seed)
    print(table(counts, title))
    for line in bad:
        print(line, file=sys.stderr)
    shutil.rmtree(place)
    return 1 if bad else 0


def made(place: Path) -> Made:
    """Make all of it in a folder; AssertionError where a command fails."""
    model, adapter = place / "model", place / "adapter"
    place.mkdir(parents=True, exist_ok=True)
    in_fork(lambda: save_adapter(save_model(model), adapter))
    texts = write_texts(place)
    found: dict[str, Artefact] = {}

    def make(kind: str, name: str, argv: tuple[object, ...], read: tuple[object, ...]) -> Artefact:
        one = Artefact(kind, place / name, _words(argv), _words(read))
        ended = call(one.made_at(one.path))
        assert ended.code == 0, f"{kind}: {ended.err}"
        found[kind] = one
        return one

    target, first, second = texts
    reference = place / "reference.safetensors"
    ended = call(["sketch", model, second, "-o", reference, "--first-moment", *SKETCH])
    assert ended.code == 0, ended.err
    audit = make(
        "audit",
        "audit",
        ("audit", model, target, "-o", "OUT", "--sketch", *WINDOWS, "--part-positions", "200"),
        ("report", "OUT", "-o", "OUT.html"),
    )
    other = make(
        "audit after",
        "audit-after",
        ("audit", model, target, "-o", "OUT", "--dtype", "bfloat16", *WINDOWS),
        ("report", "OUT", "-o", "OUT.html"),
    )
    make(
        "comparison",
        "comparison",
        ("compare", audit.path, other.path, "-o", "OUT", "--quiet"),
        ("report", "OUT", "-o", "OUT.html"),
    )
    make(
        "live comparison",
        "live",
        ("compare", model, target, "--quantize", "int8", "-o", "OUT", *WINDOWS),
        ("report", "OUT", "-o", "OUT.html"),
    )
    signatures = [
        make(
            f"signature {text.stem}",
            f"{text.stem}.safetensors",
            ("sketch", model, text, "-o", "OUT", "--first-moment", *SKETCH),
            ("align", "OUT", reference, "-o", "OUT.aligned", "--json", "--quiet"),
        ).path
        for text in (first, second, target)
    ]
    make(
        "alignment",
        "alignment",
        ("align", *signatures, "-o", "OUT", "--quiet"),
        ("report", "OUT", "-o", "OUT.html"),
    )
    ordered = (signatures[-1], *signatures[:-1])
    for verb, kind in (("rank", "ranking"), ("mix", "mixture")):
        make(
            kind,
            kind,
            (verb, *ordered, "-o", "OUT", "--quiet"),
            ("report", "OUT", "-o", "OUT.html"),
        )
    make(
        "index",
        "index",
        ("index", "add", "OUT", *signatures[:-1], "--tag", "made", "--replace"),
        ("index", "query", "OUT", signatures[-1], "--json"),
    )
    make(
        "refinement",
        "refinement",
        ("refine", model, target, "-o", "OUT", *TRAINING, *WINDOWS),
        ("report", "OUT", "-o", "OUT.html"),
    )
    grid = ("--objectives", "fisher", "--weights", "fisher=0.5", "--seeds", "1")
    make(
        "grid",
        "grid",
        ("dose", model, target, "-o", "OUT", *grid, *TRAINING, *WINDOWS),
        ("report", "OUT", "-o", "OUT.html"),
    )
    return Made(place, model, texts, found)


def save_model(folder: Path) -> Path:
    """A random Llama with a byte-level tokenizer trained on Python's own documentation."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(pydoc_data.topics.topics.values(), 480, show_progress=False)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=480,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer).save_pretrained(folder)
    return folder


def save_adapter(model: Path, folder: Path) -> Path:
    """A LoRA adapter of the model."""
    import peft
    from transformers import AutoModelForCausalLM

    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    base: Any = AutoModelForCausalLM.from_pretrained(model)
    peft.get_peft_model(base, config).save_pretrained(folder)
    return folder


def write_texts(place: Path) -> tuple[Path, ...]:
    """Three texts of a dozen short rows."""
    rows = [
        " ".join(paragraph.split())[:120]
        for name in ("assert", "if", "lambda", "with", "for", "class")
        for paragraph in pydoc_data.topics.topics[name].split("\n\n")
        if len(paragraph) > 40
    ]
    texts = []
    for nth, name in enumerate(("target", "first", "second")):
        texts.append(place / f"{name}.txt")
        texts[-1].write_text("\n".join(rows[nth::3][:16]))
    return tuple(texts)


def shown(ended: Ended, place: Path) -> str:
    """What reading an artefact at this place showed: what was printed, and the page if any.

    The place's own name is taken out, so that copies of one artefact show the same.
    """
    page = place.with_name(place.name + ".html")
    text = ended.out + (page.read_text() if page.exists() else "")
    return text.replace(place.name, "OUT").replace(str(place.parent), "PLACE")


def _words(argv: tuple[object, ...]) -> tuple[str, ...]:
    return tuple(str(one) for one in argv)
