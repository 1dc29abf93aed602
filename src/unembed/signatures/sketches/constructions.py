"""The sketch of a spec: one function of a name for every construction."""

from __future__ import annotations

import torch

from unembed.signatures.sketches.dense import Dense
from unembed.signatures.sketches.sketch import Sketch, SketchSpec
from unembed.signatures.sketches.srht import SRHT, ComplexSRHT
from unembed.signatures.sketches.tensorsketch import ComplexTensorSketch, TensorSketch

CPU = torch.device("cpu")


def sketch_of(spec: SketchSpec, device: torch.device = CPU) -> Sketch:
    """Draw the random numbers of a spec and put them on ``device``.

    The numbers are the same on every device. Source: theory §9.
    """
    match spec.construction:
        case "complex_tensorsketch":
            return ComplexTensorSketch.of(spec, device)
        case "tensorsketch":
            return TensorSketch.of(spec, device)
        case "complex_srht":
            return ComplexSRHT.of(spec, device)
        case "srht":
            return SRHT.of(spec, device)
        case "dense":
            return Dense.of(spec, device)
