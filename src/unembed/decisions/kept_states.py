"""Hidden states of a text on disk, a file for each part, for as long as a run needs them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from unembed.errors import UnembedError
from unembed.runs.files import write_whole
from unembed.text.batches import Batch

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class PartFiles:
    """A folder with a file for each part of a text, which appears whole or not at all."""

    folder: Path

    @property
    def parts(self) -> frozenset[str]:
        """The parts that are there."""
        return frozenset(path.stem for path in self.folder.glob(f"*{SUFFIX}"))

    def write_tensors(self, part: str, tensors: Mapping[str, Tensor]) -> None:
        """Write those of a part."""
        write_whole(self.folder / f"{part}{SUFFIX}", save(dict(tensors)))

    def tensors(self, part: str, names: Iterable[str]) -> list[Tensor]:
        """Some of a part's, mapped into memory. Raises UnembedError where the file is damaged."""
        try:
            with safe_open(self.folder / f"{part}{SUFFIX}", "pt") as file:
                return [file.get_tensor(name) for name in names]
        except (SafetensorError, FileNotFoundError) as error:
            raise self.damaged(part) from error

    def every(self, part: str) -> dict[str, Tensor]:
        """All of a part's by name, as ``tensors`` gives them."""
        try:
            with safe_open(self.folder / f"{part}{SUFFIX}", "pt") as file:
                names = list(file.keys())
        except (SafetensorError, FileNotFoundError) as error:
            raise self.damaged(part) from error
        return dict(zip(names, self.tensors(part, names), strict=True))

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def damaged(self, part: str) -> UnembedError:
        """What is said of a part that lacks something."""
        return UnembedError(
            f"{self.folder} lacks what it held ({part}): delete that folder, and repeat the same "
            "command"
        )


def keys_of(batch: Batch) -> Int[np.ndarray, " positions"]:
    """A number for each position of a batch, in order of the text."""
    return position_keys(batch.doc, batch.pos)


def position_keys(
    doc: Int[np.ndarray, " positions"], pos: Int[np.ndarray, " positions"]
) -> Int[np.ndarray, " positions"]:
    """The same of positions by document and place."""
    found: Int[np.ndarray, " positions"] = doc.astype(np.int64) << 32
    return found + pos.astype(np.int64)
