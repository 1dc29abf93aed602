"""The sketch of a spec, by the name of its construction."""

from __future__ import annotations

from importlib import import_module

import torch

from unembed.signatures.sketches.names import CONSTRUCTIONS
from unembed.signatures.sketches.sketch import Sketch, SketchSpec

CPU = torch.device("cpu")


def sketch_of(spec: SketchSpec, device: torch.device = CPU) -> Sketch:
    """Draw the random numbers of a spec and put them on ``device``.

    The numbers are the same on every device. Source: theory §9.
    """
    known = CONSTRUCTIONS[spec.construction]
    home = import_module(f"unembed.signatures.sketches.{known.home}")
    drawn: Sketch = getattr(home, known.kind).of(spec, device)
    return drawn
