"""The Walsh-Hadamard transform against plain butterflies and other matrix orders, in one run.

    python benchmarks/hadamard.py
    python benchmarks/hadamard.py --rows 1 512 --sizes 4096 65536
    python benchmarks/hadamard.py --device cuda --rows 512

``butterflies`` adds and subtracts halves, log2(n) passes over memory, as people write it.
``order 8`` and so on multiply by Hadamard matrices of that order, one product after the other;
``fwht`` is the library's. Times are the best of several turns; ratios are to ``fwht``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from unembed.signatures.sketches.hadamard import fwht, hadamard

NUMBERS = 1 << 25
"""The largest input, 128 MiB of float32."""

ORDERS = (8, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[1024, 4096, 16384, 65536, 262144])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 32, 512])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    peers: dict[str, Callable[[Tensor], Tensor]] = {"fwht": fwht, "butterflies": butterflies}
    for order in ORDERS:
        peers[f"order {order}"] = lambda x, order=order: products(x, order)
    print(f"{'n':>8} {'rows':>5} {'fwht, ms':>9}", *(f"{name:>12}" for name in list(peers)[1:]))
    for n in given.sizes:
        for rows in given.rows:
            if n * rows <= NUMBERS:
                x = torch.randn(rows, n, device=given.device)
                report(x, measure(peers, x, given.repeats))


def report(x: Tensor, took: dict[str, float]) -> None:
    own = took.pop("fwht")
    ratios = (f"{seconds / own:11.2f}x" for seconds in took.values())
    print(f"{x.shape[1]:8,} {len(x):5} {own * 1e3:9.3f}", *ratios, flush=True)


def measure(
    peers: dict[str, Callable[[Tensor], Tensor]], x: Tensor, repeats: int
) -> dict[str, float]:
    """Seconds of each at best, the peers taking turns; small inputs are repeated in a turn."""
    want = peers["fwht"](x)
    times = max(1, (1 << 16) // x.numel())
    took: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(repeats + 1):
        for name, transform in peers.items():
            started = clock(x)
            for _ in range(times):
                got = transform(x)
            if turn:
                took[name].append((clock(x) - started) / times)
            elif not torch.allclose(got, want, rtol=1e-4, atol=1e-5 * x.shape[1]):
                raise SystemExit(f"{name} gives another result at {tuple(x.shape)}")
    return {name: min(seconds) for name, seconds in took.items()}


def clock(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()


def butterflies(x: Tensor) -> Tensor:
    n, half = x.shape[1], 1
    while half < n:
        a, b = x.view(-1, n // (2 * half), 2, half).unbind(2)
        x = torch.stack([a + b, a - b], 2)
        half *= 2
    return x.view(-1, n)


def products(x: Tensor, order: int) -> Tensor:
    shape, inner = x.shape, order
    x = x.reshape(-1, order) @ hadamard(order, x)
    while inner < shape[1]:
        factor = min(order, shape[1] // inner)
        x = hadamard(factor, x) @ x.view(-1, factor, inner)
        inner *= factor
    return x.view(shape)


if __name__ == "__main__":
    main()
