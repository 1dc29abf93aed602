"""The kernel on a GPU, or in Triton's interpreter, which must be chosen before Triton is imported:
without a GPU the tests run in a process of their own."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import reference.sweep
from made_up.heads import random_head
from unembed.head.head import Head
from unembed.head.kernels import eager, fastest, update_of
from unembed.head.kernels.running import SEGMENT, Running
from unembed.head.precision import Precision
from unembed.head.sweep import Sweep, sweep

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
PRECISION = Precision("ieee", 2e-7, False, "triton")

HAS_TRITON = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs the triton package"
)
ON_KERNEL = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU or the interpreter"
)


def both(
    logits: torch.Tensor, targets: torch.Tensor, k: int, block: int, off: float = 0.0
) -> tuple[Running, Running]:
    """The kernel's record of these logits and the plain operations', block by block."""
    found = []
    logits = torch.nn.functional.pad(logits, (0, -logits.shape[1] % SEGMENT), value=-1e38)
    threshold = logits.gather(1, targets[:, None])[:, 0] + off
    tolerance = torch.full_like(threshold, 2 * off) if off else None
    for update in (update_of("triton"), eager.update):
        moved = (targets.to(DEVICE), threshold.to(DEVICE), k, logits.shape[1])
        running = Running.of(*moved, None if tolerance is None else tolerance.to(DEVICE))
        for start in range(0, logits.shape[1], block):
            update(running, logits[:, start : start + block].to(DEVICE).contiguous(), start)
        found.append(running)
    return found[0], found[1]


def same(a: Running, b: Running) -> None:
    for name in ("values", "ids", "larger", "seen", "near"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert torch.equal(a.sums[0], b.sums[0])
    assert torch.allclose(a.sums, b.sums, rtol=1e-6, atol=0)


@HAS_TRITON
@ON_KERNEL
@pytest.mark.parametrize("vocab", [2, 3, 127, 129, 513, 3001])
def test_the_kernel_says_what_plain_operations_say(vocab: int) -> None:
    g = torch.Generator().manual_seed(vocab)
    logits = 8 * torch.randn(4, vocab, generator=g)
    targets = torch.randint(0, vocab, (4,), generator=g)
    same(*both(logits, targets, min(vocab, 5), 2 * SEGMENT, off=1e-3))


@HAS_TRITON
@ON_KERNEL
def test_ties_go_to_the_lowest_id_within_and_across_blocks() -> None:
    logits = torch.zeros(4, 4 * SEGMENT)
    logits[1, [7, 600, 601, 1500]] = 1.0
    logits[2] = torch.arange(4 * SEGMENT) // 100  # rising, so that later ones displace earlier
    logits[3] = -1e38
    logits[3, [900, 2000]] = torch.tensor([-3.0, 2.0])
    kernel, plain = both(logits, torch.tensor([3, 600, 5, 900]), 3, SEGMENT)
    same(kernel, plain)
    want = [[0, 1, 2], [7, 600, 601], [2000, 2001, 2002], [2000, 900, 0]]
    assert kernel.ids.tolist() == want
    assert kernel.larger.tolist() == [0, 0, int((logits[2] > 0).sum()), 1]


@HAS_TRITON
@ON_KERNEL
def test_more_candidates_than_a_program_keeps_are_found_by_plain_operations() -> None:
    logits = torch.randn(2, 2 * SEGMENT, generator=torch.Generator().manual_seed(2))
    for k in (2, 17, 70):
        same(*both(logits, torch.tensor([4, 1000]), k, 2 * SEGMENT))


@HAS_TRITON
@ON_KERNEL
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_are_flagged(value: float) -> None:
    logits = torch.randn(3, 2 * SEGMENT, generator=torch.Generator().manual_seed(5))
    logits[1, 700] = value
    logits[2] = value
    kernel, plain = both(logits, torch.tensor([4, 5, 6]), 2, SEGMENT)
    finite = torch.stack(kernel.combined()).isfinite().all(0)
    assert finite.tolist() == [True, False, False]
    assert torch.equal(kernel.values[0], plain.values[0])


def moved(head: Head) -> Head:
    """The head on the device of the kernel."""
    parts = {
        name: part.to(DEVICE) for name, part in vars(head).items() if isinstance(part, torch.Tensor)
    }
    return dataclasses.replace(head, **parts)


@HAS_TRITON
@ON_KERNEL
@pytest.mark.parametrize(
    ("vocab", "how"),
    [
        (3, {}),
        (513, {"bias": True, "softcap": 30.0, "padded": 3}),
        (4099, {"bias": True, "scale": 0.0625}),
    ],
    ids=["tiny", "softcap-padded", "bias-scale"],
)
def test_sweeps_by_the_kernel_agree_with_float64(vocab: int, how: dict[str, object]) -> None:
    head, hidden, targets = random_head(vocab, 33, 9, **how)  # type: ignore[arg-type]
    got = sweep(hidden.to(DEVICE), moved(head), targets.to(DEVICE), k=4, precision=PRECISION)
    got = Sweep(*(part.cpu() for part in vars(got).values()))
    every = reference.sweep.logits(hidden, head)
    want = reference.sweep.decisions(every, targets, 4)
    for name in ("topk_values", "logsumexp", "target_logit", "entropy", "sum_p2"):
        off = (getattr(got, name).double() - torch.tensor(want[name]).double()).abs().max()
        assert off <= 5e-5, (name, off)
    clear = ((every - every.gather(1, targets[:, None])).abs() < 1e-4).sum(1) == 1
    assert clear.sum() > 6
    assert got.rank[clear].tolist() == torch.tensor(want["rank"])[clear].tolist()
    ordered = torch.tensor(want["topk_values"])
    distinct = (ordered.diff(dim=1).abs() > 1e-4).all(1)
    assert got.topk_ids[distinct].tolist() == torch.tensor(want["topk_ids"])[distinct].tolist()
    assert bool(got.finite.all())


@HAS_TRITON
@ON_KERNEL
def test_the_kernel_is_the_choice_where_it_runs() -> None:
    from unembed.head.kernels import rowwise

    assert rowwise.available(torch.device(DEVICE))
    if not INTERPRETED:
        assert fastest(torch.device("cuda")) == "triton"


@HAS_TRITON
@pytest.mark.skipif(INTERPRETED, reason="interpreted functions are not compiled")
@pytest.mark.parametrize(("slots", "topk", "near"), [(2, True, True), (64, False, False)])
def test_the_kernel_compiles_for_gpus_that_are_not_here(
    slots: int, topk: bool, near: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last step, machine code, as a launch with tensors and integers would have it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from unembed.head.kernels import rowwise

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    fixed = {"SEGMENT": 512, "LOG2_E": 1.5, "SLOTS": slots, "TOPK": topk, "NEAR": near}
    numbers = {"stride", "start", "width", "k", "plane", "parts"}
    wholes = {"targets", "ids", "larger", "near"}
    names = list(inspect.signature(rowwise._rows).parameters)
    kinds = {
        name: "constexpr"
        if name in fixed
        else "i32"
        if name in numbers
        else "*i64"
        if name in wholes
        else "*fp32"
        for name in names
    }
    source = ASTSource(
        fn=rowwise._kernel,
        signature=kinds,
        constexprs={(names.index(name),): value for name, value in fixed.items()},
    )
    options = {"num_warps": 4, "enable_fp_fusion": False}
    built = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    assert built.asm["cubin"]


def test_plain_operations_serve_a_gpu_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "unembed.head.kernels.rowwise", raising=False)
    monkeypatch.delattr(sys.modules["unembed.head.kernels"], "rowwise", raising=False)
    assert fastest(torch.device("cuda")) == "eager"


@HAS_TRITON
@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
def test_the_kernel_in_tritons_interpreter() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed, 3 skipped" in run.stdout, run.stdout
