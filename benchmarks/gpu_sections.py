"""The sections of ``gpu.py``: each yields rows, which this process prints as lines of JSON.

Times are medians over the host's clock, the device awaited before and after, once two calls have
compiled and chosen what they need. Memory is the allocator's peak above what was held before the
call. Float32 products are float32: tf32 is off. Nothing is drawn by the seed of a probe.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unembed.head.blocks import BLOCK
from unembed.head.head import Head
from unembed.head.kernels import eager, fastest, update_of
from unembed.head.kernels.running import SEGMENT, Running
from unembed.head.loss import head_loss
from unembed.head.precision import Precision
from unembed.head.product import WIDE_BLOCK, WIDE_ROWS, multiply
from unembed.head.sweep import Sweep, sweep

Rows = Iterator[dict[str, Any]]
FLOAT32_BAR = 1e-4
"""What the sweep promises of a logit, and so of a margin, up to |logit| = 50."""
CLEAR = 1e-4
"""Logits closer than this to the target's leave its rank open, and to the next their order."""
HEADS = {
    "Llama-3-8B": (4_096, 128_256),
    "Qwen3-0.6B": (1_024, 151_936),
    "Qwen3-8B": (4_096, 151_936),
}
PUBLISHED = "published, one H100"


class NotHereError(Exception):
    """What a section needs is not on this machine."""


@dataclass(frozen=True)
class Place:
    """Where to measure, and whether to run at the size of a test."""

    device: torch.device
    dry: bool

    def size(self, real: int, tiny: int) -> int:
        return tiny if self.dry else real

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def epilogues(self) -> list[Any]:
        """The kernel that a sweep takes here, and plain operations."""
        return list(dict.fromkeys([fastest(self.device), "eager"]))

    def timed(self, work: Callable[[], object], seconds: float = 1.5) -> dict[str, Any]:
        """Median time of a call, and what it holds at most above what was held before it."""
        least, most, warm = (1, 1, 1) if self.dry else (3, 20, 2)
        for _ in range(warm):
            start = time.perf_counter()
            work()
            self.wait()
        if time.perf_counter() - start > 4:
            least = 1  # budgets are short
        added: float | None = None
        if self.on_gpu:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            work()
            self.wait()
            added = (torch.cuda.max_memory_allocated() - held) / 2**20
        times: list[float] = []
        while len(times) < least or (sum(times) < seconds and len(times) < most):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return {"ms": 1e3 * statistics.median(times), "added_mib": added, "calls": len(times)}

    def attempt(self, what: str, job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A row, or one that says why there is none, with its memory given back."""
        try:
            return {"what": what, **job()}
        except Exception as error:
            return {"what": what, "error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        finally:
            gc.collect()
            if self.on_gpu:
                torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="+", choices=SECTIONS)
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    if not given.dry_run and not torch.cuda.is_available():
        say({"machine": {"device": "none", "torch": torch.__version__}})
        raise SystemExit("no CUDA device")
    place = Place(torch.device("cpu" if given.dry_run else "cuda"), given.dry_run)
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    say({"machine": machine(place)})
    for name in given.sections:
        run_section(name, place)


def run_section(name: str, place: Place) -> None:
    start, status, error = time.perf_counter(), "measured", None
    try:
        for row in SECTIONS[name](place):
            say({"section": name, "row": row})
            if row.get("holds") is False:
                status = "wrong"
            elif "error" in row and status == "measured":
                status = "failed"
    except NotHereError as reason:
        status, error = "skipped", str(reason)
    except Exception as broken:
        status, error = "failed", f"{type(broken).__name__}: {broken}"
    seconds = time.perf_counter() - start
    say({"section": name, "status": status, "error": error, "seconds": seconds})


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def machine(place: Place) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {"device": "cpu", "python": platform.python_version()}
    if place.on_gpu:
        about = torch.cuda.get_device_properties(place.device)
        found["device"] = about.name
        found["memory_gib"] = round(about.total_memory / 2**30, 1)
        found["multiprocessors"] = about.multi_processor_count
        found["capability"] = f"{about.major}.{about.minor}"
        found["cuda"] = torch.version.cuda
    for package in ("torch", "triton", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def drawn(
    place: Place, vocab: int, dim: int, rows: int, dtype: torch.dtype, spread: float = 3.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, hidden states and targets; logits have this standard deviation."""
    generator = torch.Generator(place.device).manual_seed(11)
    normal = {"generator": generator, "device": place.device, "dtype": torch.float32}
    weight = torch.randn(vocab, dim, **normal).mul_(dim**-0.5 * spread).to(dtype)
    hidden = torch.randn(rows, dim, **normal).to(dtype)
    targets = torch.randint(0, vocab, (rows,), generator=generator, device=place.device)
    return weight, hidden, targets


def ceilings(place: Place) -> Rows:
    size = place.size(1 << 32, 1 << 16)

    def copied() -> dict[str, Any]:
        source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=place.device)
        into = torch.empty_like(source)
        found = place.timed(lambda: into.copy_(source))
        return {**found, "gb_per_s": 2 * size / found["ms"] / 1e6}

    yield place.attempt(f"copy of {size >> 20:,} MiB", copied)
    side = place.size(8_192, 64)
    for left, out in (
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
    ):

        def multiplied(left: torch.dtype = left, out: torch.dtype = out) -> dict[str, Any]:
            weight, hidden, _ = drawn(place, side, side, side, left)
            into = torch.empty(side, side, dtype=out, device=place.device)
            if out == left:
                found = place.timed(lambda: torch.mm(hidden, weight.T, out=into))
            else:
                found = place.timed(lambda: multiply(hidden, weight, "wide", into))
            return {**found, "tflop_per_s": 2 * side**3 / found["ms"] / 1e9}

        yield place.attempt(f"{side:,}³, {short(left)} to {short(out)}", multiplied)


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def correctness(place: Place) -> Rows:
    half, bf16, full = torch.float16, torch.bfloat16, torch.float32
    rows = place.size(2_100, 70)
    shapes = [(place.size(50_257, 1_031), place.size(1_024, 48), rows)]
    for hidden_dtype, weight_dtype in ((bf16, bf16), (half, half), (full, bf16), (full, full)):
        for recipe in ("plain", "bias, scale, soft-cap, padded rows"):
            yield from agreement(place, hidden_dtype, weight_dtype, *shapes[0], recipe)
    for dim, vocab in HEADS.values():
        tall = (place.size(vocab, 2_050), place.size(dim, 64), place.size(256, 32))
        yield from agreement(place, bf16, bf16, *tall, "plain")
    yield from gradients(place)


def agreement(
    place: Place,
    hidden_dtype: torch.dtype,
    weight_dtype: torch.dtype,
    vocab: int,
    dim: int,
    rows: int,
    recipe: str,
) -> Rows:
    """Every statistic of a sweep against float64, by the route that the probe takes here."""
    weight, hidden, targets = drawn(place, vocab, dim, rows, torch.float32, 8.0)
    weight, hidden = weight.to(weight_dtype), hidden.to(hidden_dtype)
    head = Head.from_parts(weight)
    if recipe != "plain":
        bias = torch.linspace(-2, 2, vocab, device=place.device).to(weight_dtype)
        valid = torch.ones(vocab, dtype=torch.bool, device=place.device)
        valid[-7:] = False
        head = Head.from_parts(weight, bias, 0.5, 30.0, valid)
        targets = targets.clamp_max(vocab - 8)
    precision = Precision.probe(weight, hidden_dtype)
    logits = exact_logits(hidden, head)
    for epilogue in place.epilogues():
        what = f"{short(hidden_dtype)} × {short(weight_dtype)}, {recipe}"

        def compared(epilogue: Any = epilogue) -> dict[str, Any]:
            chosen = replace(precision, epilogue=epilogue)
            got = sweep(hidden, head, targets, k=5, precision=chosen)
            again = sweep(hidden, head, targets, k=5, precision=chosen, block=2 * SEGMENT)
            return {
                "head": f"{vocab:,} × {dim:,}",
                "positions": rows,
                "route": precision.route,
                "probe_error": precision.error,
                "kernel": epilogue,
                **errors(got, logits, targets),
                "other_block": float((got.logsumexp - again.logsumexp).abs().max()),
            }

        yield place.attempt(what, compared)


def exact_logits(hidden: Tensor, head: Head) -> Tensor:
    """All logits in float64, minus infinity where a row is no token."""
    logits = hidden.double() @ head.weight.double().T
    if head.bias is not None:
        logits += head.bias.double()
    logits *= head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    if head.valid is not None:
        logits[:, ~head.valid] = -torch.inf
    return logits


def errors(got: Sweep, logits: Tensor, targets: Tensor) -> dict[str, Any]:
    """The largest error of each kind, and how many decisions are others than float64's."""
    own = logits.gather(1, targets[:, None])
    values, ids = logits.topk(got.topk_ids.shape[1] + 1, dim=1)
    p = logits.softmax(1)
    pairs = {
        "topk": (got.topk_values, values[:, :-1]),
        "logsumexp": (got.logsumexp, logits.logsumexp(1)),
        "target": (got.target_logit, own[:, 0]),
        "entropy": (got.entropy, torch.special.entr(p).sum(1)),
        "sum_p2": (got.sum_p2, p.square().sum(1)),
    }
    off = {f"off_{k}": float((a.double() - b).abs().max()) for k, (a, b) in pairs.items()}
    clear = ((logits - own).abs() < CLEAR).sum(1) == 1
    ranks = int((got.rank != 1 + (logits > own).sum(1))[clear].sum())
    distinct = (-values.diff(dim=1) > CLEAR).all(1)
    tops = int((got.topk_ids != ids[:, :-1])[distinct].any(1).sum())
    right = ranks == tops == 0 and bool(got.finite.all())
    # A comparison with NaN is false, so that NaN never holds.
    return {
        "largest_logit": float(logits[logits.isfinite()].abs().max()),
        **off,
        "ranks_wrong": f"{ranks} of {int(clear.sum())}",
        "top_k_wrong": f"{tops} of {int(distinct.sum())}",
        "holds": right and all(error <= FLOAT32_BAR for error in off.values()),
    }


def gradients(place: Place) -> Rows:
    """The gradients of ``head_loss`` against those of full float64 logits."""
    vocab, dim = place.size(5_003, 519), place.size(256, 24)
    for dtype, bar in ((torch.float32, 1e-5), (torch.bfloat16, 5e-3)):

        def compared(dtype: torch.dtype = dtype, bar: float = bar) -> dict[str, Any]:
            weight, hidden, targets = drawn(place, vocab, dim, place.size(1_100, 40), dtype)
            weight, hidden = weight.requires_grad_(), hidden.requires_grad_()
            head = Head.from_parts(weight)
            found = head_loss(hidden, head, targets, k=3)
            total = (found.nll + 0.1 * found.entropy + 0.1 * found.topk_values.sum(1)).mean()
            got = torch.autograd.grad(total, (hidden, weight))
            logits = hidden.double() @ weight.double().T
            log_p = logits.log_softmax(1)
            nll = -log_p.gather(1, targets[:, None])[:, 0]
            entropy = -(log_p.exp() * log_p).sum(1)
            want = torch.autograd.grad(
                (nll + 0.1 * entropy + 0.1 * logits.topk(3).values.sum(1)).mean(), (hidden, weight)
            )
            apart = [
                float((a.double() - b.double()).norm() / b.double().norm())
                for a, b in zip(got, want, strict=True)
            ]
            return {
                "head": f"{vocab:,} × {dim:,}",
                "positions": len(hidden),
                "off_hidden": apart[0],
                "off_weight": apart[1],
                "holds": max(apart) <= bar,
            }

        yield place.attempt(f"head_loss's gradients, {short(dtype)}", compared)


def kernel(place: Place) -> Rows:
    if importlib.util.find_spec("triton") is None:
        raise NotHereError("Triton is not installed")
    from unembed.head.kernels import rowwise

    if place.on_gpu and not rowwise.available(place.device):
        rowwise.available.cache_clear()
        probe = torch.zeros(1, SEGMENT, device=place.device)
        rowwise.update(
            Running.of(probe[0, :1].long(), probe[0, :1], 2, SEGMENT, probe[0, :1]), probe, 0
        )
        raise RuntimeError("the kernel ran, and its count of near logits is wrong")
    rows, width = place.size(2_048, 4), place.size(4 * WIDE_BLOCK, 4 * SEGMENT)
    generator = torch.Generator(place.device).manual_seed(12)
    random = 8 * torch.randn(rows, width, generator=generator, device=place.device)
    targets = torch.randint(0, width, (rows,), generator=generator, device=place.device)
    infinite = random.clone()
    infinite[::3, width // 2] = torch.nan
    infinite[1::3, 5] = torch.inf
    for what, logits, k in (
        ("random logits, k = 2", random, 2),
        ("random logits, k = 5", random, 5),
        ("random logits, k = 70", random, 70),
        ("ties", random.round(), 5),
        ("rows that are not finite", infinite, 2),
    ):
        yield place.attempt(what, partial(twins, logits, targets, k))

    def rate() -> dict[str, Any]:
        parts = width // place.size(WIDE_BLOCK, SEGMENT)
        step, none = width // parts, torch.zeros(rows, device=place.device)

        def work() -> None:
            running = Running.of(targets, none, 5, width, none)
            for start in range(0, width, step):
                rowwise.update(running, random[:, start : start + step], start)

        found = place.timed(work)
        return {**found, "gb_per_s": random.nbytes / found["ms"] / 1e6}

    yield place.attempt(f"rate, {rows:,} × {width:,}", rate)


def twins(logits: Tensor, targets: Tensor, k: int) -> dict[str, Any]:
    """What the kernel and plain operations keep of the same blocks."""
    off = 1e-3
    threshold = logits.gather(1, targets[:, None])[:, 0] + off
    found = []
    for update in (update_of("triton"), eager.update):
        slack = torch.full_like(threshold, 2 * off)
        running = Running.of(targets, threshold, k, logits.shape[1], slack)
        for start in range(0, logits.shape[1], 2 * SEGMENT):
            block = logits[:, start : start + 2 * SEGMENT].contiguous().clone()
            update(running, block, start)
        found.append(running)
    one, other = found
    whole = logits.isfinite().all(1)
    same = {
        name: bool(torch.equal(getattr(one, name)[whole], getattr(other, name)[whole]))
        for name in ("values", "ids", "larger", "seen", "near")
    }
    sums, plain = one.sums[:, whole].double(), other.sums[:, whole].double()
    apart = float(((sums - plain).abs() / plain.abs().clamp_min(1e-30)).max())
    flags = [torch.stack(each.combined()).isfinite().all(0) for each in found]
    flagged = torch.equal(flags[0], whole) and torch.equal(flags[1], whole)
    return {
        "same": ", ".join(name for name, equal in same.items() if equal),
        "off_sums": apart,
        "not_finite_flagged": flagged,
        "holds": all(same.values()) and apart <= 1e-5 and flagged,
    }


def vocabulary_pass(place: Place) -> Rows:
    for name, (dim, vocab) in HEADS.items():
        yield from one_head(place, name, place.size(vocab, 3_008), place.size(dim, 64))


def one_head(place: Place, name: str, vocab: int, dim: int) -> Rows:
    rows = place.size(16_384, 64)
    weight, hidden, targets = drawn(place, vocab, dim, rows, torch.bfloat16)
    head, precision = Head.from_parts(weight), Precision.probe(weight)

    def swept(epilogue: Any) -> Callable[[], object]:
        chosen = replace(precision, epilogue=epilogue)
        return lambda: sweep(hidden, head, targets, k=5, precision=chosen)

    jobs = {
        # The roofline: the operands' own product at once, every logit rounded to bfloat16.
        "product, bfloat16 logits": lambda: torch.mm(hidden, weight.T),
        "product, float32 logits in blocks": blocked_product(hidden, weight),
        **{f"sweep, {kernel}": swept(kernel) for kernel in place.epilogues()},
        "full logits, 4,096 rows at a time": lambda: plain_statistics(
            hidden, weight, targets, 4_096
        ),
    }
    size = {"model": name, "head": f"{vocab:,} × {dim:,}", "positions": rows}
    roof: float | None = None
    for what, work in jobs.items():
        row = place.attempt(what, partial(place.timed, work))
        if "ms" in row:
            row["tflop_per_s"] = 2 * rows * vocab * dim / row["ms"] / 1e9
            roof = roof or row["ms"]
            row["share_of_product"] = roof / row["ms"]
        yield {**size, "route": precision.route if "sweep" in what else None, **row}


def blocked_product(hidden: Tensor, weight: Tensor) -> Callable[[], object]:
    """The products that a sweep takes, and nothing else."""
    height = min(len(hidden), WIDE_ROWS)
    out = torch.empty(height * WIDE_BLOCK, dtype=torch.float32, device=hidden.device)

    def work() -> None:
        for start in range(0, len(weight), WIDE_BLOCK):
            part = weight[start : start + WIDE_BLOCK]
            for top in range(0, len(hidden), height):
                some = hidden[top : top + height]
                into = out[: len(some) * len(part)].view(len(some), len(part))
                multiply(some, part, "wide", into)

    return work


def plain_statistics(hidden: Tensor, weight: Tensor, targets: Tensor, step: int) -> None:
    """Top-k, loss, entropy and rank, as one writes them with full float32 logits."""
    for rows, some in zip(hidden.split(step), targets.split(step), strict=True):
        statistics_of((rows @ weight.T).float(), some)


def statistics_of(logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    log_p = logits.log_softmax(-1)
    own = logits.gather(-1, targets[..., None])
    entropy = -(log_p.exp() * log_p).sum(-1)
    nll = -log_p.gather(-1, targets[..., None])[..., 0]
    return (*logits.topk(5), nll, entropy, (logits > own).sum(-1) + 1)


def loss(place: Place) -> Rows:
    rows, vocab, dim = place.size(16_384, 48), place.size(248_320, 1_500), place.size(2_048, 32)
    weight, hidden, targets = drawn(place, vocab, dim, rows, torch.bfloat16)
    precision = Precision.probe(weight)
    weight, hidden = weight.requires_grad_(), hidden.requires_grad_()
    head = Head.from_parts(weight)

    def ours(block: int = BLOCK) -> Tensor:
        return head_loss(hidden, head, targets, precision=precision, block=block).nll.mean()

    def plain() -> Tensor:
        logits = torch.nn.functional.linear(hidden, weight).float()
        return torch.nn.functional.cross_entropy(logits, targets)

    def back(value: Callable[[], Tensor]) -> Callable[[], object]:
        # Not .backward(), whose gradients stay and would count as held already.
        return lambda: torch.autograd.grad(value(), (hidden, weight))

    def forward() -> None:
        with torch.no_grad():
            ours()

    jobs: dict[str, Callable[[], Callable[[], object]]] = {
        "head_loss, forward": lambda: forward,
        "head_loss, forward and backward": lambda: back(ours),
        "the same, blocks of 16,384 columns": lambda: back(lambda: ours(16_384)),
        "cross_entropy(linear), forward and backward": lambda: back(plain),
    }
    if place.on_gpu:
        jobs["cut-cross-entropy, forward and backward"] = lambda: back(cut(hidden, weight, targets))
        jobs["Liger, forward and backward"] = lambda: back(liger(hidden, weight, targets))
    size = {"shape": f"{rows:,} × {vocab:,} × {dim:,}"}
    for what, made in jobs.items():
        try:
            work = made()
        except ImportError:
            yield {**size, "what": what, "note": "not installed"}
            continue
        yield {**size, **place.attempt(what, partial(place.timed, work))}
    real = {"shape": "16,384 × 248,320 × 2,048", "note": PUBLISHED}
    yield {**real, "what": "cut-cross-entropy", "ms": 92.6, "published_gb": 3.09}
    yield {**real, "what": "Liger", "ms": 321.0, "published_gb": 6.05}


def cut(hidden: Tensor, weight: Tensor, targets: Tensor) -> Callable[[], Tensor]:
    from cut_cross_entropy import linear_cross_entropy

    return lambda: linear_cross_entropy(hidden, weight, targets)


def liger(hidden: Tensor, weight: Tensor, targets: Tensor) -> Callable[[], Tensor]:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    fused = LigerFusedLinearCrossEntropyLoss()
    return lambda: fused(weight, hidden, targets)


def sketch(place: Place) -> Rows:
    from unembed.signatures.reading.features import features
    from unembed.signatures.sketches.constructions import sketch_of
    from unembed.signatures.sketches.sketch import SketchSpec

    m = place.size(4_096, 64)

    def same() -> dict[str, Any]:
        vocab, dim = place.size(5_003, 600), 64
        weight, hidden, targets = drawn(place, vocab, dim, 100, torch.float32)
        made = []
        for device in (place.device, torch.device("cpu")):
            moved = [part.to(device) for part in (hidden, weight, targets)]
            spec = SketchSpec(vocab, dim, "complex_tensorsketch", m)
            head = Head.from_parts(moved[1])
            found = features(moved[0], head, moved[2], sketch_of(spec, device))[1]
            made.append(found.joint.double().cpu())
        apart = float((made[0] - made[1]).norm() / made[1].norm())
        return {"head": f"{vocab:,} × {dim}", "off_cpu": apart, "holds": apart <= 1e-4}

    yield place.attempt("features here against those on a CPU", same)
    for dim in (1_024, 4_096):
        yield from sketched(place, place.size(128_256, 1_200), place.size(dim, 32), m)


def sketched(place: Place, vocab: int, dim: int, m: int) -> Rows:
    """The pass without a sketch, and with one of either Fisher."""
    from unembed.signatures.reading.features import features
    from unembed.signatures.sketches.constructions import sketch_of
    from unembed.signatures.sketches.sketch import SketchSpec

    weight, hidden, targets = drawn(place, vocab, dim, place.size(8_192, 40), torch.bfloat16)
    head, how = Head.from_parts(weight), {"precision": Precision.probe(weight), "k": 5}
    chosen = sketch_of(SketchSpec(vocab, dim, "complex_tensorsketch", m), place.device)

    def with_sketch(fisher: Any) -> Callable[[], object]:
        return lambda: features(hidden, head, targets, chosen, fisher=fisher, **how)

    jobs = {
        "pass alone": lambda: sweep(hidden, head, targets, **how),
        "with the empirical Fisher's sketch": with_sketch("empirical"),
        "with the true Fisher's sketch": with_sketch("true"),
    }
    size = {"head": f"{vocab:,} × {dim:,}", "positions": len(hidden), "m": m}
    alone: float | None = None
    for what, work in jobs.items():
        row = place.attempt(what, partial(place.timed, work))
        if "ms" in row:
            alone = alone or row["ms"]
            row["times_the_pass"] = row["ms"] / alone
        yield {**size, **row}


def audit(place: Place) -> Rows:
    from unembed.decisions.audit.audit import audit as audited
    from unembed.decisions.audit.run import AuditOptions
    from unembed.runs.manifest import read_run
    from unembed.runs.phases import Phases
    from unembed.text.corpus import Corpus

    vocab = place.size(128_256, 400)
    tokenizer, model = word_tokenizer(vocab), llama(place, vocab)
    texts = made_up_texts(vocab, place.size(200_000, 300), place.size(1_500, 60))
    corpus = Corpus.from_texts(texts, tokenizer)
    few = Corpus.from_texts(texts[:4], tokenizer)
    parameters = sum(part.numel() for part in model.parameters())

    def ours() -> dict[str, Any]:
        audited(model, few)  # compiles, and chooses products
        phases = Phases(finish=place.wait)
        with tempfile.TemporaryDirectory() as folder, watched(place) as seen:
            done = audited(model, corpus, AuditOptions(), out=Path(folder) / "run", phases=phases)
        precision = {"parameters": parameters, "positions": len(done)}
        spent = {f"{name}_s": seconds for name, seconds in phases.seconds.items()}
        return {**precision, **seen, **spent, "positions_per_s": len(done) / seen["seconds"]}

    def plainly() -> dict[str, Any]:
        rows = [torch.tensor(ids) for ids in tokenizer(texts)["input_ids"]]
        plain_rows(place, model, rows[:4])
        with watched(place) as seen:
            count = plain_rows(place, model, rows)
        rate = {"positions_per_s": count / seen["seconds"]}
        return {"parameters": parameters, "positions": count, **seen, **rate}

    def whole() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            model.save_pretrained(folder / "model")
            tokenizer.save_pretrained(folder / "model")
            (folder / "text.txt").write_text("\n".join(texts), "utf-8")
            command = [sys.executable, "-m", "unembed", "audit", str(folder / "model")]
            command += [str(folder / "text.txt"), "-o", str(folder / "run"), "--quiet"]
            command += ["--device", place.device.type, "--profile"]
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
            seconds = time.perf_counter() - start
            if done.returncode:
                raise RuntimeError(done.stderr.strip().splitlines()[-1])
            positions = read_run(folder / "run").key["text"]["positions"]
        rate = positions / seconds
        return {"positions": positions, "seconds": seconds, "positions_per_s": rate}

    yield place.attempt("audit, in a process that is warm", ours)
    yield place.attempt("eight rows at a time, full float32 logits, warm", plainly)
    if not place.dry:
        yield place.attempt("unembed audit, the whole process from the disk", whole)


@contextlib.contextmanager
def watched(place: Place) -> Iterator[dict[str, Any]]:
    """Seconds of the block, and the allocator's peak above what was held before it."""
    seen: dict[str, Any] = {}
    if place.on_gpu:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    place.wait()
    start = time.perf_counter()
    yield seen
    place.wait()
    seen["seconds"] = time.perf_counter() - start
    if place.on_gpu:
        seen["added_mib"] = (torch.cuda.max_memory_allocated() - held) / 2**20


def llama(place: Place, vocab: int) -> Any:
    """A random bfloat16 model of Llama-3.2-1B's shape."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=place.size(2_048, 32),
        intermediate_size=place.size(8_192, 64),
        num_hidden_layers=place.size(16, 1),
        num_attention_heads=place.size(32, 2),
        num_key_value_heads=place.size(8, 1),
        max_position_embeddings=2_048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(13)
    with place.device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.eval()


def word_tokenizer(vocab: int) -> Any:
    """A tokenizer of as many made-up words as the head has rows, so that all of them are tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(WordLevel({f"w{i}": i for i in range(vocab)}, unk_token="w0"))
    made.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made)


def made_up_texts(vocab: int, tokens: int, longest: int) -> list[str]:
    """Documents of 32 tokens to ``longest``, of words drawn by Zipf's law."""
    import numpy as np

    generator = np.random.default_rng(14)
    texts = []
    while tokens > 0:
        length = int(generator.integers(32, longest))
        words = np.minimum(generator.zipf(1.2, length), vocab) - 1
        texts.append(" ".join(f"w{word}" for word in words.tolist()))
        tokens -= length
    return texts


@torch.inference_mode()
def plain_rows(place: Place, model: Any, rows: list[Tensor]) -> int:
    """What people write first: batches of eight rows as they come, padded, full logits."""
    kept = []
    for at in range(0, len(rows), 8):
        some = rows[at : at + 8]
        ids = torch.nn.utils.rnn.pad_sequence(some, batch_first=True).to(place.device)
        real = torch.zeros_like(ids, dtype=torch.bool)
        for line, row in zip(real, some, strict=True):
            line[: len(row)] = True
        logits = model(input_ids=ids, attention_mask=real.long()).logits.float()[:, :-1]
        found = statistics_of(logits, ids[:, 1:])
        kept.append([column[real[:, 1:]].cpu() for column in found])
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save([torch.cat(column) for column in zip(*kept, strict=True)], file)
    return sum(len(each[0]) for each in kept)


SECTIONS: dict[str, Callable[[Place], Rows]] = {
    "ceilings": ceilings,
    "correctness": correctness,
    "kernel": kernel,
    "sweep": vocabulary_pass,
    "loss": loss,
    "sketch": sketch,
    "audit": audit,
}

if __name__ == "__main__":
    main()
