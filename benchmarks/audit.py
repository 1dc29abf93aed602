"""The audit against the plain Hugging Face ways: whole processes, throughput and memory.

    python benchmarks/audit.py                         # a random one-layer model, 768 x 50,257
    python benchmarks/audit.py --model CHECKPOINT --text wikitext2-valid.txt --peers audit rows
    python benchmarks/audit.py --dim 1024 --vocab 151936 --positions 8000 --peers audit

Each measurement is a fresh process that loads the checkpoint from disk, reads the text and writes
its table; the peers alternate. ``audit`` is the command line, with its summary and its report.
``plain`` is what people write first: batches of eight rows as they come, full float32 logits, topk,
log_softmax, entropy and rank. ``rows`` takes one row at a time and writes a CSV line for each
position; ``tokens`` does so with a loop over the row's positions. The table gives the whole
process's seconds, and the memory above the loaded model.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="checkpoint folder [a random GPT-2]")
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--text", type=Path, help="a .txt file [the bundled model's text]")
    parser.add_argument("--positions", type=int, help="stop after so many [all]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=["audit", "plain"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=PEERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(PEERS[given.child](given)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model, text = prepare(given, Path(folder))
        fixed = ["--model", str(model), "--text", str(text)]
        found: dict[str, list[dict[str, float]]] = {peer: [] for peer in given.peers}
        for _ in range(given.repeats):
            for peer in given.peers:
                found[peer].append(measured(peer, fixed, given.positions))
    report(given, found)


def prepare(given: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """The checkpoint and the text, written below ``folder`` where none were given."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from unembed.demo.story import bundled_model
    from unembed.demo.text import documents
    from unembed.models.checkpoint import load

    model, text = given.model, given.text
    if model is None:
        model = folder / "model"
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=given.vocab, n_embd=given.dim, n_layer=given.layers, n_head=given.dim // 64
        )
        GPT2LMHeadModel(config).to(getattr(torch, given.dtype)).save_pretrained(model)
        load(bundled_model()).tokenizer.save_pretrained(model)
    if text is None:
        text = folder / "text.txt"
        text.write_text("\n".join(d.text.replace("\n", " ") for d in documents("heldout")))
    return model, text


def measured(peer: str, fixed: list[str], positions: int | None) -> dict[str, float]:
    command = [sys.executable, __file__, *fixed, "--child", peer]
    if positions is not None:
        command += ["--positions", str(positions)]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def report(given: argparse.Namespace, found: dict[str, list[dict[str, float]]]) -> None:
    medians = {
        peer: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for peer, runs in found.items()
    }
    ratios = {
        peer: [b["seconds"] / a["seconds"] for a, b in zip(found["audit"], runs, strict=True)]
        for peer, runs in found.items()
        if peer != "audit" and "audit" in found
    }
    if given.json:
        print(json.dumps({"runs": found, "medians": medians, "ratios": ratios}, indent=1))
        return
    for peer, row in medians.items():
        print(
            f"{peer:<8}{row['positions']:>9,.0f} positions{row['seconds']:>9.2f} s"
            f"{row['positions'] / row['seconds']:>9,.0f} tokens/s"
            f"{row['added_mib']:>8,.0f} MiB above the loaded model"
        )
    for peer, some in ratios.items():
        shown = ", ".join(f"{ratio:.2f}" for ratio in some)
        print(f"{peer} takes {statistics.median(some):.2f} times as long (pair by pair: {shown})")


class PeakMemory:
    """The largest resident set seen while it is open, looked at every two milliseconds.

    The kernel's own high-water mark would do, but it cannot be reset everywhere, and loading the
    model reaches higher than the measured part.
    """

    def __enter__(self) -> PeakMemory:
        self.mib, self.over = resident_mib(), threading.Event()
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()
        return self

    def watch(self) -> None:
        while not self.over.wait(0.002):
            self.mib = max(self.mib, resident_mib())

    def __exit__(self, *_error: object) -> None:
        self.over.set()
        self.watcher.join()


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def resident_with(model: Any) -> float:
    """Resident set once every weight has been read: loading only maps the file."""
    import torch

    for parameter in model.parameters():
        torch.linalg.vector_norm(parameter)
    return resident_mib()


def with_audit(given: argparse.Namespace) -> dict[str, float]:
    """The command line itself; its memory is looked at from the first batch on."""
    import unembed.decisions.audit.audit as module
    from unembed.cli import cli

    peaks: list[tuple[float, PeakMemory]] = []
    whole = module.audit

    def watched(model: Any, *args: Any, **named: Any) -> Any:
        before = resident_with(model)
        with PeakMemory() as peak:
            done = whole(model, *args, **named)
        peaks.append((before, peak))
        return done

    module.audit = watched
    with tempfile.TemporaryDirectory() as out:
        run = Path(out) / "run"
        command = ["audit", str(given.model), str(given.text), "-o", str(run), "--quiet", "--json"]
        if given.positions is not None:
            command += ["--max-positions", str(given.positions)]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            cli(command, standalone_mode=False)
        count = json.loads(printed.getvalue())["summary"]["n_positions"]
    [(before, peak)] = peaks
    return {"positions": count, "added_mib": peak.mib - before}


def plainly(given: argparse.Namespace) -> dict[str, float]:
    import numpy as np
    import torch

    model, rows = loaded(given)
    before, kept = resident_with(model), []
    with PeakMemory() as peak, torch.inference_mode():
        for some in batches_of(rows, 8):
            ids = torch.nn.utils.rnn.pad_sequence(some, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in some], True)
            logits = model(input_ids=ids, attention_mask=mask).logits.float()[:, :-1]
            real = mask[:, 1:].bool()
            kept.append([c[real].numpy() for c in statistics_of(logits, ids[:, 1:])])
        with tempfile.NamedTemporaryFile(suffix=".npz") as file:
            np.savez(file, *[np.concatenate(column) for column in zip(*kept, strict=True)])
    return {"positions": sum(len(k[0]) for k in kept), "added_mib": peak.mib - before}


def row_by_row(given: argparse.Namespace) -> dict[str, float]:
    import torch

    model, rows = loaded(given)
    before, count = resident_with(model), 0
    with (
        PeakMemory() as peak,
        torch.inference_mode(),
        tempfile.NamedTemporaryFile("w", suffix=".csv", newline="") as file,
    ):
        writer = csv.writer(file)
        for number, row in enumerate(rows):
            logits = model(input_ids=row[None]).logits.float()[:, :-1]
            values, ids, *others = statistics_of(logits, row[None, 1:])
            columns = [values[0, :, 0] - values[0, :, 1], ids[0, :, 0], ids[0, :, 1], row[1:]]
            columns += [column[0] for column in others]
            lines = zip(*(column.tolist() for column in columns), strict=True)
            writer.writerows((number, at, *line) for at, line in enumerate(lines))
            count += len(row) - 1
    return {"positions": count, "added_mib": peak.mib - before}


def token_by_token(given: argparse.Namespace) -> dict[str, float]:
    import torch

    model, rows = loaded(given)
    before, count = resident_with(model), 0
    with (
        PeakMemory() as peak,
        torch.inference_mode(),
        tempfile.NamedTemporaryFile("w", suffix=".csv", newline="") as file,
    ):
        writer = csv.writer(file)
        for number, row in enumerate(rows):
            logits = model(input_ids=row[None]).logits[0].float()
            for at, target in enumerate(row[1:].tolist()):
                own = logits[at]
                (first, second), ids = (x.tolist() for x in own.topk(2))
                log_p = own.log_softmax(-1)
                entropy = -(log_p.exp() * log_p).sum().item()
                rank = int((own > own[target]).sum()) + 1
                line = (first - second, *ids, target, -log_p[target].item(), entropy, rank)
                writer.writerow((number, at, *line))
            count += len(row) - 1
    return {"positions": count, "added_mib": peak.mib - before}


def statistics_of(logits: Any, targets: Any) -> tuple[Any, ...]:
    """Top-k, loss, entropy and rank, as one writes them with full logits."""
    log_p = logits.log_softmax(-1)
    own = logits.gather(-1, targets[..., None])
    entropy = -(log_p.exp() * log_p).sum(-1)
    nll = -log_p.gather(-1, targets[..., None])[..., 0]
    return (*logits.topk(5), nll, entropy, (logits > own).sum(-1) + 1)


def loaded(given: argparse.Namespace) -> tuple[Any, list[Any]]:
    """The model, and the text's rows as token ids cut at the model's context."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(given.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    limit = model.config.max_position_embeddings
    lines = [line for line in given.text.read_text().split("\n") if line.strip()]
    rows, left = [], given.positions or sys.maxsize
    for ids in tokenizer(lines)["input_ids"]:
        for at in range(0, len(ids) - 1, limit - 1):
            part = ids[at : at + limit][: left + 1]
            rows += [torch.tensor(part)] if len(part) > 1 else []
            left -= max(len(part) - 1, 0)
    return model, rows


def batches_of(rows: list[Any], size: int) -> Iterator[list[Any]]:
    for at in range(0, len(rows), size):
        yield rows[at : at + size]


PEERS: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "audit": with_audit,
    "plain": plainly,
    "rows": row_by_row,
    "tokens": token_by_token,
}

if __name__ == "__main__":
    main()
