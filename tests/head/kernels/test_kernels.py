"""The kernels against each other; tests/test_sweep.py holds them against float64."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unembed.head import kernels as epilogue
from unembed.head.kernels import compiled, eager
from unembed.head.kernels.running import SEGMENT, Running

needs_compiler = pytest.mark.skipif(not compiled.available(), reason="no C++ compiler here")


@pytest.fixture
def fresh_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder, and no library loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled._library.cache_clear()
    yield tmp_path / "unembed"
    compiled._library.cache_clear()


def run(update: Any, logits: torch.Tensor, targets: torch.Tensor, k: int, block: int) -> Running:
    vocab = logits.shape[1]
    threshold = logits.gather(1, targets[:, None])[:, 0]
    running = Running.of(targets, threshold, k, vocab)
    for start in range(0, vocab, block):
        given = logits[:, start : start + block].clone()
        update(running, given, start)
        kept = logits[:, start : start + block]
        torch.testing.assert_close(given, kept, rtol=0, atol=0, equal_nan=True)
    return running


@needs_compiler
@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 4), st.integers(2, 9), st.booleans(), st.integers(0, 10**6)
)
def test_the_compiled_kernel_is_the_eager_one(
    rows: int, segments: int, k: int, tied: bool, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, segments * SEGMENT, generator=g) * 8
    logits = logits.round() if tied else logits
    logits[:, -5:] = -1e38
    targets = torch.randint(0, logits.shape[1] - 5, (rows,), generator=g)
    a = run(compiled.update, logits, targets, k, SEGMENT)
    b = run(eager.update, logits, targets, k, 2 * SEGMENT)
    for name in ("values", "ids", "larger", "seen"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert torch.equal(a.sums[0], b.sums[0])
    assert torch.allclose(a.sums, b.sums, rtol=2e-6, atol=1e-30)
    for ours, theirs in zip(a.combined(), b.combined(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@needs_compiler
@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 3),
    st.sampled_from([0.0, 1e-6, 1e-2, 0.5, 3.0, 90.0]),
    st.integers(0, 10**6),
)
def test_the_compiled_sums_beside_another_distribution_are_the_eager_ones(
    rows: int, segments: int, far: float, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    log_p = (torch.randn(rows, segments * SEGMENT, generator=g) * 8).log_softmax(1)
    logits = log_p + far * torch.randn(log_p.shape, generator=g)
    log_p[:, -5:] = logits[:, -5:] = -1e38
    top, bar = logits.amax(1), logits[:, 0].clone()
    base = (logits.logsumexp(1) - top).clone()
    before = log_p.clone(), logits.clone()
    found = torch.full((2, 5, rows, segments), torch.nan)
    for take_in, sums in zip((compiled.sums_beside, eager.sums_beside), found, strict=True):
        take_in(log_p, logits, (top, base, bar), sums)
    assert torch.equal(log_p, before[0])
    assert torch.equal(logits, before[1])
    assert torch.equal(found[0, 4], found[1, 4])
    assert int(found[0, 4].sum()) == int((logits > bar[:, None]).sum())
    assert torch.allclose(found[0], found[1], rtol=1e-5, atol=1e-30)
    assert bool((found[:, 2] >= 0).all())


@needs_compiler
def test_powers_of_two_are_those_of_float64() -> None:
    """Each segment holds its maximum, 0, and one other logit, whose power the sum then shows."""
    x = torch.linspace(0, 89, 4000)
    logits = torch.full((len(x), SEGMENT), -1e38)
    logits[:, 3], logits[:, 200] = 0.0, -x
    got = run(compiled.update, logits, torch.zeros(len(x), dtype=torch.long), 2, SEGMENT)
    power = torch.exp2(-(x * 1.44269504).double())
    want = torch.where(x * 1.44269504 > 126, 0.0, power)
    assert torch.equal(got.sums[0, :, 0], torch.zeros(len(x)))
    assert torch.allclose(got.sums[1, :, 0].double(), 1 + want, rtol=1e-7, atol=0)
    assert torch.allclose(got.sums[3, :, 0].double(), 1 + want**2, rtol=1e-7, atol=0)
    slope = got.sums[2, :, 0].double() / -(x * 1.44269504).double().clamp_min(1e-30)
    assert torch.allclose(slope[1:], want[1:], rtol=2e-6, atol=0)


@needs_compiler
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_logit_that_is_not_finite_shows(bad: float) -> None:
    logits = torch.randn(3, 2 * SEGMENT)
    logits[1, 700] = bad
    running = run(compiled.update, logits, torch.zeros(3, dtype=torch.long), 2, SEGMENT)
    sums = torch.stack(running.combined())
    assert torch.isfinite(sums).all(0).tolist() == [True, False, True]


@needs_compiler
def test_the_library_is_compiled_once(fresh_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled.available()
    [kept] = fresh_library.iterdir()
    assert kept.suffix == ".so"
    assert stat.S_IMODE(fresh_library.stat().st_mode) == 0o700

    def refuse(*_args: object, **_named: object) -> None:
        raise AssertionError("compiled again")

    compiled._library.cache_clear()
    monkeypatch.setattr(subprocess, "run", refuse)
    assert compiled.available()


@needs_compiler
def test_a_damaged_library_is_compiled_again(
    fresh_library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert compiled.available()
    [kept] = fresh_library.iterdir()
    damaged = tmp_path / "other" / "unembed" / kept.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no library")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    compiled._library.cache_clear()
    assert compiled.available()
    assert damaged.stat().st_size == kept.stat().st_size


def halved(kept: Path, copy: Path) -> None:
    copy.write_bytes(kept.read_bytes()[: kept.stat().st_size // 2])


def overwritten(kept: Path, copy: Path) -> None:
    data = bytearray(kept.read_bytes())
    half = len(data) // 2
    data[half : half + 4096] = bytes(4096)
    copy.write_bytes(data)


def open_to_others(kept: Path, copy: Path) -> None:
    copy.write_bytes(kept.read_bytes())
    copy.chmod(0o722)


def a_link(kept: Path, copy: Path) -> None:
    copy.symlink_to(kept)


@needs_compiler
@pytest.mark.parametrize("change", [halved, overwritten, open_to_others, a_link])
def test_a_library_is_loaded_only_as_it_was_written(
    change: Callable[[Path, Path], None],
    fresh_library: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A library that was cut short ends the process that loads it, where a digest tells."""
    assert compiled.available()
    [kept] = fresh_library.iterdir()
    copy = tmp_path / "other" / "unembed" / kept.name
    copy.parent.mkdir(parents=True)
    change(kept, copy)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    compiled._library.cache_clear()
    assert compiled.available()
    assert not copy.is_symlink()
    assert copy.read_bytes() == kept.read_bytes()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o700


@needs_compiler
def test_a_cache_that_others_may_write_is_not_used(fresh_library: Path) -> None:
    fresh_library.mkdir()
    fresh_library.chmod(0o777)
    assert compiled.available()
    assert not list(fresh_library.iterdir())


@needs_compiler
def test_a_relative_cache_is_not_used(
    fresh_library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert compiled.available()
    assert not (tmp_path / "here").exists()
    assert [path.suffix for path in (tmp_path / "home/.cache/unembed").iterdir()] == [".so"]
    assert not fresh_library.exists()


@needs_compiler
def test_a_cache_that_cannot_be_written_is_done_without(
    fresh_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_library.write_text("a file where the folder should be")
    monkeypatch.setenv("TMPDIR", str(fresh_library.parent))
    assert compiled.available()


@pytest.mark.usefixtures("fresh_library")
def test_without_a_compiler_torch_operations_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert not compiled.available()
    assert epilogue.fastest(torch.device("cpu")) == "eager"
    with pytest.raises(RuntimeError, match="available"):
        run(compiled.update, torch.zeros(1, SEGMENT), torch.zeros(1, dtype=torch.long), 2, SEGMENT)


@pytest.mark.usefixtures("fresh_library")
def test_a_compiler_that_fails_is_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert not compiled.available()
