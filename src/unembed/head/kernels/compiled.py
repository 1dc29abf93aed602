"""A bfloat16 product and a block's statistics in C++, compiled for this machine when first needed.

Two small files without dependencies take about a second to compile, against ten or more for a
general compiler of tensor programs, so even a short run can afford it. The library is kept in the
user's cache folder under a name that holds the source, the compiler and the processor, and its own
SHA-256, by which it is checked before it is loaded: a damaged one would end the process.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from jaxtyping import BFloat16, Float, Float64, Int, Int32
from torch import Tensor

from unembed.head.kernels.running import SEGMENT, Running

SOURCES = ("block.cpp", "bfloat16.cpp")
FLAGS = ("-O3", "-fPIC", "-std=c++17")
ATTEMPTS = (("-march=native", "-fopenmp"), ("-march=native",), ())
"""Tried in turn; without OpenMP the pass takes one thread."""
LANES = 16
"""Numbers of a vector in the C++ files, on every machine."""
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def available() -> bool:
    """Whether the kernel is there, compiling it where that has not been done."""
    return _library() is not None


def update(running: Running, logits: Float[Tensor, "rows block"], start: int) -> None:
    """Take in a block of logits. See ``running.Update``."""
    library = _library()
    if library is None:
        raise RuntimeError("the compiled kernel is not available: ask available() first")
    rows, width = logits.shape
    _, height, parts = running.sums.shape
    if height != rows or running.sums.stride(2) != 1 or logits.stride(1) != 1:
        raise ValueError("running and logits must hold the same rows, their columns adjacent")
    library.unembed_update(
        logits.data_ptr(),
        rows,
        width,
        logits.stride(0),
        start,
        running.targets.data_ptr(),
        running.threshold.data_ptr(),
        running.values.shape[1],
        running.values.data_ptr(),
        running.ids.data_ptr(),
        running.larger.data_ptr(),
        running.seen.data_ptr(),
        running.sums.data_ptr(),
        running.sums.stride(0),
        parts,
        torch.get_num_threads(),
    )


def segment_divergences(
    p: Float[Tensor, "rows block"],
    q: Float[Tensor, "rows block"],
    bases: tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]],
    bottom: float,
    sums: Float[Tensor, "5 rows parts"],
) -> None:
    """Sums over each segment of two models' logits; see ``divergence.segment_sums``."""
    library = _library()
    if library is None:
        raise RuntimeError("the compiled kernel is not available: ask available() first")
    library.unembed_apart(
        p.data_ptr(),
        q.data_ptr(),
        *p.shape,
        p.stride(0),
        q.stride(0),
        *(base.data_ptr() for base in bases),
        bottom,
        sums.data_ptr(),
        sums.stride(0),
        sums.stride(1),
        torch.get_num_threads(),
    )


def sums_beside(
    log_p: Float[Tensor, "rows block"],
    logits: Float[Tensor, "rows block"],
    given: tuple[Float[Tensor, " rows"], Float[Tensor, " rows"], Float[Tensor, " rows"]],
    sums: Float[Tensor, "5 rows parts"],
) -> None:
    """Five sums over each segment of two distributions; see ``eager.sums_beside``."""
    library = _library()
    if library is None:
        raise RuntimeError("the compiled kernel is not available: ask available() first")
    library.unembed_beside(
        log_p.data_ptr(),
        logits.data_ptr(),
        *logits.shape,
        log_p.stride(0),
        logits.stride(0),
        *(column.data_ptr() for column in given),
        sums.data_ptr(),
        sums.stride(0),
        sums.stride(1),
        torch.get_num_threads(),
    )


def scatter(
    logits: Float[Tensor, "rows block"],
    start: int,
    targets: Int[Tensor, " rows"],
    tables: Int32[Tensor, "maps padded"],
    rise: float,
    sums: Float[Tensor, "groups maps buckets 16"],
    reference: Float[Tensor, " rows"],
    own: Float[Tensor, " rows"],
    totals: tuple[Float64[Tensor, " rows"], Float64[Tensor, " rows"]],
) -> None:
    """Take a block into two or three count-sketches of each row; see ``Projections``."""
    library = _library()
    if library is None:
        raise RuntimeError("the compiled kernel is not available: ask available() first")
    groups, maps, buckets, lanes = sums.shape
    rows, width = logits.shape
    fits = groups * lanes == rows and width % SEGMENT == 0 and start + width <= tables.shape[1]
    if not fits or maps not in (2, 3) or lanes != LANES or logits.stride(1) != 1:
        raise ValueError("logits, tables and sums do not fit each other")
    library.unembed_scatter(
        logits.data_ptr(),
        rows,
        width,
        logits.stride(0),
        start,
        targets.data_ptr(),
        tables.data_ptr(),
        maps,
        tables.stride(0),
        sums.data_ptr(),
        buckets,
        rise,
        *(x.data_ptr() for x in (reference, own, *totals)),
        torch.get_num_threads(),
    )


def has_bfloat16() -> bool:
    """Whether the kernel multiplies bfloat16 matrices: compiler and processor have AVX512-BF16."""
    library = _library()
    return library is not None and bool(library.unembed_has_bfloat16())


def multiply_bfloat16(
    left: BFloat16[Tensor, "rows depth"],
    right: BFloat16[Tensor, "columns depth"],
    out: Float[Tensor, "rows columns"],
) -> None:
    """``out[:] = left.float() @ right.float().T`` for multiples of 16 rows and 16 columns.

    The products are exact, the sums float32 in an order that depends on the depth alone, with
    subnormal numbers taken as 0. Raises RuntimeError where ``has_bfloat16`` is False, ValueError
    for shapes that do not fit.
    """
    if not has_bfloat16():
        raise RuntimeError("bfloat16 products are not available: ask has_bfloat16() first")
    if left.shape[1] % 2:
        left, right = (torch.nn.functional.pad(matrix, (0, 1)) for matrix in (left, right))
    left, right = left.contiguous(), right.contiguous()
    rows, columns, depth = len(left), len(right), left.shape[1]
    fits = right.shape[1] == depth and out.shape == (rows, columns) and out.stride(1) == 1
    if not fits or rows % LANES or columns % LANES:
        raise ValueError("left, right and out must fit each other, by 16 rows and 16 columns")
    _library().unembed_bfloat16(
        left.data_ptr(),
        rows,
        left.stride(0),
        right.data_ptr(),
        columns,
        right.stride(0),
        depth,
        out.data_ptr(),
        out.stride(0),
        torch.get_num_threads(),
    )


@cache
def _library() -> Any:
    """The loaded library, or None where there is no compiler or nothing it makes can be loaded."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None or platform.system() == "Windows":
        return None
    files = resources.files(__package__)
    source = b"\n".join(files.joinpath(name).read_bytes() for name in SOURCES)
    name = f"block-{_key(source, compiler)}"
    try:
        return _kept_in(_cache_folder(), name, compiler, source)
    except (OSError, RuntimeError):
        pass
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _kept_in(Path(folder), name, compiler, source)
    except (OSError, RuntimeError):
        return None


def _kept_in(folder: Path, name: str, compiler: str, source: bytes) -> Any:
    """The library of this name in the folder, compiled there if it is missing or damaged."""
    for library in sorted(folder.glob(f"{name}-*.so")):
        if _is_whole(library):
            try:
                return _loaded(library)
            except OSError:
                pass
        library.unlink(missing_ok=True)
    return _loaded(_build(compiler, source, folder, name))


def _is_whole(library: Path) -> bool:
    """Whether a file is the user's own, and what its name says that was written."""
    if library.is_symlink() or not library.is_file():
        return False
    found = library.stat()
    own = found.st_uid == os.getuid() and not found.st_mode & OTHERS_WRITE
    return own and library.stem.endswith(f"-{_digest(library)}")


def _digest(library: Path) -> str:
    with library.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _loaded(path: Path) -> Any:
    library = ctypes.CDLL(str(path))
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    library.unembed_update.restype = None
    library.unembed_update.argtypes = [
        *(pointer, size, size, size, size),
        *(pointer, pointer, size, pointer, pointer),
        *(pointer, pointer, pointer, size, size, size),
    ]
    library.unembed_apart.restype = None
    library.unembed_apart.argtypes = [
        *(pointer, pointer, size, size, size, size),
        *(pointer, pointer, ctypes.c_float, pointer, size, size, size),
    ]
    library.unembed_beside.restype = None
    library.unembed_beside.argtypes = [
        *(pointer, pointer, size, size, size, size),
        *(pointer, pointer, pointer, pointer, size, size, size),
    ]
    library.unembed_scatter.restype = None
    library.unembed_scatter.argtypes = [
        *(pointer, size, size, size, size),
        *(pointer, pointer, size, size, pointer, size),
        *(ctypes.c_float, pointer, pointer, pointer, pointer, size),
    ]
    library.unembed_has_bfloat16.restype = size
    library.unembed_has_bfloat16.argtypes = []
    if library.unembed_has_bfloat16():
        library.unembed_bfloat16.restype = None
        library.unembed_bfloat16.argtypes = [
            *(pointer, size, size, pointer, size, size, size, pointer, size, size),
        ]
    return library


def _build(compiler: str, source: bytes, folder: Path, name: str) -> Path:
    """Compile into a folder of its own and put the finished library in place in one step."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        code, built, library = (Path(scratch) / f"block.{end}" for end in ("cpp", "o", "so"))
        code.write_bytes(source)
        for attempt in ATTEMPTS:
            # OpenMP's own library is not named: torch has loaded one, and two would compete.
            later = ("-undefined", "dynamic_lookup") if platform.system() == "Darwin" else ()
            try:
                for step in (
                    (*FLAGS, *attempt, "-c", code, "-o", built),
                    ("-shared", *later, built, "-o", library),
                ):
                    run = [compiler, *map(str, step)]
                    subprocess.run(run, check=True, capture_output=True, timeout=60)
                _loaded(library)
            except (OSError, subprocess.SubprocessError):
                continue
            library.chmod(0o700)
            _flush(library)
            target = folder / f"{name}-{_digest(library)}.so"
            library.replace(target)
            _flush(folder)
            return target
    raise RuntimeError(f"{compiler} could not compile the kernel")


def _flush(path: Path) -> None:
    """To disk: a rename that outlives a power cut must not outlive what it renamed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cache_folder() -> Path:
    """The user's cache folder, theirs alone to write, for what lies in it is run.

    A relative one would be of whoever owns the current folder: it is ignored, as XDG has it.
    """
    asked = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = (asked if asked.is_absolute() else Path.home() / ".cache") / "unembed"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & OTHERS_WRITE:
        raise PermissionError(f"{folder} is not this user's alone to write")
    return folder


def _key(source: bytes, compiler: str) -> str:
    """Names the source, the flags, the compiler and the processor's instruction sets."""
    digest = hashlib.sha256(source)
    stat = Path(compiler).resolve().stat()
    digest.update(f"{compiler} {stat.st_size} {stat.st_mtime_ns} {FLAGS} {ATTEMPTS}".encode())
    digest.update(f"{platform.machine()} {platform.processor()} {torch.__version__}".encode())
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        kept = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
        digest.update("\n".join(sorted(set(kept))).encode())
    return digest.hexdigest()[:20]
