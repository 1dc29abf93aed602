"""What a ladder costs: a base and five variants, beside six audits and beside logits on disk.

    python benchmarks/ladder.py MODEL TEXT                   # 20,000 positions, three repeats
    python benchmarks/ladder.py MODEL TEXT --positions 5000 --json ladder.json

The variants are made first: the model with noise of 0.5 to 8 % on its weights, saved in its own
precision. Each measurement is whole fresh processes, started in turn: one ``unembed compare`` of
all; six ``unembed audit``; and six processes that do what llama.cpp's perplexity tool does for a
divergence: the base's log-probabilities go to disk, 16 bits a token of the vocabulary, and each
variant's are taken against them. Seconds are of processors, which a shared machine does not
stretch, with wall seconds beside them; memory is the largest of any process. The bar is 1.15 times
the six audits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NOISES = (0.005, 0.01, 0.02, 0.04, 0.08)
CONTEXT = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--positions", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=("make", "keep", "against"), help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        CHILDREN[given.child](given)
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        child(given, "make", place)
        runs = [
            {name: way(given, place, repeat) for name, way in WAYS.items()}
            for repeat in range(given.repeats)
        ]
    found = {
        name: {key: statistics.median(run[name][key] for run in runs) for key in runs[0][name]}
        for name in WAYS
    }
    base = found["audits"]
    for name, figures in found.items():
        ratios = ", ".join(f"{key} {value / base[key]:.2f} x" for key, value in figures.items())
        words = ", ".join(f"{key} {value:,.1f}" for key, value in figures.items())
        print(f"{name}: {words} ({ratios} of six audits)")
    if given.json:
        given.json.write_text(json.dumps({"runs": runs, "medians": found}, indent=1))


def variants(place: Path) -> list[Path]:
    return [place / f"noise-{noise:g}" for noise in NOISES]


def ladder(given: argparse.Namespace, place: Path, repeat: int) -> dict[str, float]:
    out = place / f"ladder-{repeat}"
    models = map(str, (given.model, *variants(place)))
    return measured([unembed("compare", *models, given.text, given, out)], out)


def audits(given: argparse.Namespace, place: Path, repeat: int) -> dict[str, float]:
    out = place / f"audits-{repeat}"
    models = (given.model, *variants(place))
    return measured(
        [unembed("audit", str(one), given.text, given, out / one.name) for one in models], out
    )


def logits_on_disk(given: argparse.Namespace, place: Path, repeat: int) -> dict[str, float]:
    out = place / f"logits-{repeat}"
    out.mkdir()
    commands = [command(given, "keep", out, given.model)]
    commands += [command(given, "against", out, one) for one in variants(place)]
    return measured(commands, out)


WAYS = {"audits": audits, "ladder": ladder, "logits on disk": logits_on_disk}


def unembed(verb: str, *words: Any) -> list[str]:
    *models, text, given, out = words
    options = ("--context", CONTEXT, "--max-positions", given.positions, "-o", out, "--quiet")
    return [sys.executable, "-m", "unembed", verb, *models, *map(str, (text, *options))]


def command(given: argparse.Namespace, what: str, place: Path, model: Path) -> list[str]:
    words = (model, given.text, "--positions", given.positions, "--child", what, "--place", place)
    return [sys.executable, __file__, *map(str, words)]


def child(given: argparse.Namespace, what: str, place: Path) -> None:
    subprocess.run(command(given, what, place, given.model), check=True)


def measured(commands: list[list[str]], out: Path) -> dict[str, float]:
    """Processor and wall seconds of all, the largest memory of any, and the most on disk."""
    start, seconds, peak, disk = time.perf_counter(), 0.0, 0.0, 0
    for words in commands:
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
            while True:
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
                disk = max(disk, on_disk(out))
                if pid:
                    break
                time.sleep(0.05)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{words} ended with {process.returncode}")
        seconds += used.ru_utime + used.ru_stime
        peak = max(peak, used.ru_maxrss / 1024)
    return {
        "seconds": seconds,
        "wall": time.perf_counter() - start,
        "MiB": peak,
        "disk MiB": disk / (1 << 20),
    }


def on_disk(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*"):
        try:
            found += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return found


def make(given: argparse.Namespace) -> None:
    """Save the model with noise on its matrices."""
    import torch

    from unembed.models.checkpoint import load

    for noise, folder in zip(NOISES, variants(given.place), strict=True):
        checkpoint = load(given.model)
        generator = torch.Generator().manual_seed(round(1000 * noise))
        with torch.no_grad():
            for one in checkpoint.model.parameters():
                if one.ndim > 1:
                    one += noise * one.std() * torch.randn(one.shape, generator=generator)
        checkpoint.model.save_pretrained(folder)
        checkpoint.tokenizer.save_pretrained(folder)


def log_probabilities(given: argparse.Namespace) -> Any:
    """The windows' log-probabilities, one window at a time."""
    import torch

    from unembed.models.checkpoint import load
    from unembed.text.corpus import Corpus
    from unembed.text.tokenised import ReadingLimit

    checkpoint = load(given.model)
    limit = ReadingLimit.of(given.positions, context=CONTEXT)
    corpus = Corpus.read(given.text, checkpoint.tokenizer, limit=limit)
    left = given.positions
    for row in range(corpus.rows):
        ids = torch.tensor(corpus.ids[corpus.starts[row] : corpus.starts[row + 1]]).long()
        for start in range(0, len(ids) - 1, CONTEXT):
            window = ids[start : start + CONTEXT + 1][: left + 1]
            if len(window) < 2:
                return
            with torch.no_grad():
                logits = checkpoint.model(input_ids=window[None, :-1]).logits[0].float()
            left -= len(window) - 1
            yield logits.log_softmax(-1), window[1:]


def keep(given: argparse.Namespace) -> None:
    """Write the base's log-probabilities, scaled to 16 bits between the least and the largest."""
    import numpy as np

    with (given.place / "base.logits").open("wb") as file:
        for found, _targets in log_probabilities(given):
            least = found.amin(1, keepdim=True)
            scale = ((found.amax(1, keepdim=True) - least) / 65535).clamp_min(1e-12)
            file.write(((found - least) / scale).round().numpy().astype(np.uint16).tobytes())
            file.write(scale.numpy().tobytes() + least.numpy().tobytes())


def against(given: argparse.Namespace) -> None:
    """Mean KL, same top and loss of a variant, against what the base wrote."""
    import numpy as np
    import torch

    total = np.zeros(3)
    with (given.place / "base.logits").open("rb") as file:
        for found, targets in log_probabilities(given):
            n, vocabulary = found.shape
            kept = np.frombuffer(file.read(2 * n * vocabulary), np.uint16).reshape(n, vocabulary)
            scale, least = (np.frombuffer(file.read(4 * n), np.float32)[:, None] for _ in "ab")
            p = torch.from_numpy(kept.astype(np.float32) * scale + least)
            kl = (p.exp() * (p - found)).sum(1)
            same = p.argmax(1) == found.argmax(1)
            loss = -found[torch.arange(n), targets]
            total += [float(one.sum()) for one in (kl, same, loss)]
    print(total.tolist(), file=sys.stderr)


CHILDREN = {"make": make, "keep": keep, "against": against}

if __name__ == "__main__":
    main()
