"""What a run takes against what was foretold: whole commands, at shapes that nothing was fitted on.

    python benchmarks/run_cost.py                  # every held-out shape, audits
    python benchmarks/run_cost.py --fit            # the constants of models/costs/host.py
    python benchmarks/run_cost.py --run layers --shapes narrow long --repeats 3
    python benchmarks/run_cost.py --ranks 2 --shapes long

Models have random weights, of the widths, depths and vocabularies below; their text is the bundled
model's, whole documents or single lines, cut to so many positions. Each measurement is a fresh
process of the command line, page and all, with one thread a process; the cost is asked for in one
of its own right before, and knows neither. ``ratio`` is measured over foretold.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladder import on_disk

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass(frozen=True)
class Shape:
    """A model and a text."""

    kind: str
    width: int
    layers: int
    vocab: int
    dtype: str
    context: int
    positions: int
    text: str

    def __str__(self) -> str:
        return (
            f"{self.kind}, {self.layers} × {self.width}, {self.vocab:,} tokens, {self.dtype}, "
            f"context {self.context}, {self.positions:,} positions of {self.text}"
        )


FITTED = {
    "tiny": Shape("llama", 128, 2, 512, "float32", 128, 60_000, "documents"),
    "small": Shape("llama", 192, 5, 8192, "float32", 512, 60_000, "documents"),
    "gpt2-4": Shape("gpt2", 768, 4, 50_257, "float32", 512, 5_000, "documents"),
    "bfloat16": Shape("llama", 512, 4, 32_000, "bfloat16", 1024, 8_000, "documents"),
    "lines": Shape("llama", 512, 4, 32_000, "float32", 256, 8_000, "lines"),
}
HELD_OUT = {
    "narrow": Shape("llama", 256, 12, 2048, "float32", 256, 30_000, "lines"),
    "wide-head": Shape("qwen3", 1024, 2, 151_936, "bfloat16", 512, 3_000, "documents"),
    "gpt2-12": Shape("gpt2", 768, 12, 50_257, "float32", 128, 4_000, "lines"),
    "long-context": Shape("llama", 384, 6, 16_384, "float32", 2048, 12_000, "documents"),
    "long": Shape("llama", 128, 12, 512, "float32", 512, 150_000, "documents"),
    "wide": Shape("qwen3", 1024, 8, 50_304, "bfloat16", 1024, 3_000, "documents"),
    "100k": Shape("llama", 640, 3, 100_000, "float32", 512, 4_000, "lines"),
}
SHAPES = FITTED | HELD_OUT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, help="[held out; with --fit fitted]")
    parser.add_argument("--run", choices=("audit", "layers", "compare", "sketch"), default="audit")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--fit", action="store_true", help="print constants for models/costs/host.py"
    )
    parser.add_argument("--folder", type=Path, help="where models and texts are kept, used again")
    parser.add_argument("--make", action="store_true", help="write them and end")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    names = given.shapes or list(FITTED if given.fit else HELD_OUT)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        for name in names:
            make(SHAPES[name], folder / name)
        if given.make:
            return
        found = [
            {"shape": name, **measured(folder / name, given)}
            for _ in range(given.repeats)
            for name in names
        ]
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    if given.fit:
        print(json.dumps(fitted(found), indent=1))
    report(found)


def make(shape: Shape, place: Path) -> None:
    """The model and the text of a shape, unless they are there."""
    if (place / "text.txt").exists():
        return
    from unembed.demo.text import documents

    whole = [document.text for document in documents("heldout")]
    if shape.text == "lines":
        rows = [line for text in whole for line in text.split("\n") if len(line) > 40]
    else:
        rows = [text.replace("\n", " ") for text in whole]
    tokenizer = tokenizer_of(shape.vocab, rows)
    model_of(shape).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    kept, left = [], shape.positions
    for row in rows:
        ids = tokenizer(row, verbose=False)["input_ids"]
        if len(ids) < 2:
            continue
        kept.append(row if len(ids) <= left + 1 else tokenizer.decode(ids[: left + 1]))
        left -= len(ids) - 1
        if left <= 0:
            break
    (place / "text.txt").write_text("\n".join(kept))


def tokenizer_of(vocab: int, rows: list[str]) -> Any:
    """The bundled model's, with tokens that no text has, or one of fewer tokens."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from unembed.demo.story import bundled_model
    from unembed.models.checkpoint import load_tokenizer

    own = load_tokenizer(bundled_model())
    if vocab < len(own):
        return own.train_new_from_iterator(rows, vocab_size=vocab)
    data = json.loads(own.backend_tokenizer.to_str())
    words = data["model"]["vocab"]
    words |= {f"unused {i}": i for i in range(len(words), vocab)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(data)),
        bos_token=own.bos_token,
        eos_token=own.eos_token,
    )


def model_of(shape: Shape) -> Any:
    import torch
    import transformers as tf

    torch.manual_seed(0)
    heads = shape.width // 64
    if shape.kind == "gpt2":
        config: Any = tf.GPT2Config(
            vocab_size=shape.vocab,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=heads,
            n_positions=shape.context,
        )
    else:
        made = {"llama": tf.LlamaConfig, "qwen3": tf.Qwen3Config}[shape.kind]
        config = made(
            vocab_size=shape.vocab,
            hidden_size=shape.width,
            intermediate_size=shape.width * 8 // 3 // 64 * 64,
            num_hidden_layers=shape.layers,
            num_attention_heads=heads,
            num_key_value_heads=max(1, heads // 2),
            head_dim=64,
            max_position_embeddings=shape.context,
            tie_word_embeddings=shape.kind == "qwen3",
        )
    return tf.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, shape.dtype))


def measured(place: Path, given: argparse.Namespace) -> dict[str, Any]:
    """What is foretold of a run, and what it then takes."""
    model, text, out = place / "model", place / "text.txt", place / "out"
    shutil.rmtree(out, ignore_errors=True)
    asked = ["check", str(model), "--cost", str(text), "--json", "--run", given.run]
    done = subprocess.run(
        [sys.executable, "-m", "unembed", *asked, "--ranks", str(given.ranks)],
        check=True,
        capture_output=True,
        text=True,
    )
    start = [sys.executable]
    if given.ranks > 1:
        start += ["-m", "torch.distributed.run", "--standalone"]
        start += ["--nproc-per-node", str(given.ranks)]
    models = [str(model), str(model)] if given.run == "compare" else [str(model)]
    target = str(out / "x.safetensors") if given.run == "sketch" else str(out)
    words = [given.run, *models, str(text), "-o", target, "--json", "--profile"]
    out.mkdir()
    if given.run != "sketch":
        out.rmdir()
    begin = time.perf_counter()
    with subprocess.Popen(
        [*start, "-m", "unembed", *words, "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{words} ended with {process.returncode}")
    found = {
        "seconds": time.perf_counter() - begin,
        "processor": used.ru_utime + used.ru_stime,
        "memory": used.ru_maxrss * 1024,
        "disk": on_disk(out),
        "phases": json.loads(said[said.index("{") :])["profile_seconds"],
        "foretold": json.loads(done.stdout),
    }
    print(place.name, f"{found['seconds']:.1f} s", file=sys.stderr)
    return found


def report(found: list[dict[str, Any]]) -> None:
    """A line for each shape, medians of its repeats."""
    print("| shape | seconds | foretold | ratio | MB | foretold | ratio | disk, ratio |")
    print("|---|---|---|---|---|---|---|---|")
    worst = {"seconds": 1.0, "memory": 1.0}
    for name in dict.fromkeys(one["shape"] for one in found):
        some = [one for one in found if one["shape"] == name]
        cells = []
        for key, unit in (("seconds", 1.0), ("memory", 1e6), ("disk", 1e6)):
            took = statistics.median(one[key] for one in some) / unit
            said = statistics.median(total(one["foretold"], key) for one in some) / unit
            ratio = took / said
            if key in worst:
                worst[key] = max(worst[key], ratio, 1 / ratio)
            cells += [f"{took:,.1f}", f"{said:,.1f}"] if key != "disk" else []
            cells.append(f"{ratio:.2f}")
        print(f"| {SHAPES[name]} | {' | '.join(cells)} |")
    print(", ".join(f"{key} within {most - 1:.0%}" for key, most in worst.items()))


def total(cost: dict[str, Any], key: str) -> float:
    """Seconds or bytes of a cost, added up."""
    if key == "seconds":
        return sum(term["seconds"] for term in cost["terms"])
    return sum(size["bytes"] for size in cost[key])


def fitted(found: list[dict[str, Any]]) -> dict[str, float]:
    """The constants that the phases of these runs make most likely, in seconds of this machine.

    Few runs tell a few of them; what a position takes of a summary is that of millions of them
    (``benchmarks/scale.py``).
    """
    import numpy as np

    from unembed.models.costs.host import HOST

    def phase(name: str) -> Any:
        return np.array([one["phases"].get(name, 0.0) / one["foretold"]["host"] for one in found])

    def column(take: Any) -> Any:
        return np.array([float(take(one)) for one in found])

    def slope(values: Any, *columns: Any) -> list[float]:
        return [float(x) for x in np.linalg.lstsq(np.stack(columns, 1), values, rcond=None)[0]]

    ones = np.ones(len(found))
    shapes = [SHAPES[one["shape"]] for one in found]
    positions = column(lambda one: one["foretold"]["positions"])
    rows = column(lambda one: one["foretold"]["text"]["rows"])
    weights = column(lambda one: one["foretold"]["memory"][0]["bytes"])
    head = np.array([float(shape.vocab * shape.width) for shape in shapes])
    both, load_byte = slope(phase("start") + phase("load"), ones, weights)
    summary = phase("summary") - HOST.summary_position * positions
    of_all, of_row, of_number = slope(summary, ones, rows, head)
    disk_byte, files = slope(column(lambda one: one["disk"]), positions, ones)
    others = column(
        lambda one: sum(s["bytes"] for s in one["foretold"]["memory"] if s["name"] != "process")
    )
    return {
        "start and load": both,
        "load_byte": load_byte,
        "character": slope(
            phase("read"), column(lambda one: one["foretold"]["text"]["characters"])
        )[0],
        "write_position": slope(phase("write"), positions)[0],
        "summary": of_all,
        "summary_row": of_row,
        "slice_number": of_number,
        "page": float(np.median(phase("page"))),
        "process_bytes": float(np.median(column(lambda one: one["memory"]) - others)),
        "disk bytes a position": disk_byte,
        "file_bytes": files,
    }


if __name__ == "__main__":
    main()
