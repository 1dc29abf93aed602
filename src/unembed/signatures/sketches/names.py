"""The constructions of a sketch by name, and where each is.

The command line, the specs of signatures and ``sketch_of`` read this list. A new construction is a
class with a method ``of(spec, device)`` that gives a ``Sketch``, in a file here, and a line.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Construction:
    """A kind of random map: its file in this folder, its class there, and what it is."""

    home: str
    kind: str
    meaning: str


CONSTRUCTIONS = {
    "complex_tensorsketch": Construction(
        "tensorsketch", "ComplexTensorSketch", "count-sketches with four phases"
    ),
    "tensorsketch": Construction("tensorsketch", "TensorSketch", "count-sketches with signs"),
    "complex_srht": Construction("srht", "ComplexSRHT", "Hadamard transforms with four phases"),
    "srht": Construction("srht", "SRHT", "Hadamard transforms with signs, the published one"),
    "dense": Construction("dense", "Dense", "independent signs, slow"),
}
DEFAULT = "complex_tensorsketch"
