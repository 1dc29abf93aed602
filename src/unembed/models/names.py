"""The precisions and roundings of a model by name, for the command line and whoever checks them."""

from __future__ import annotations

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Precisions that a body is loaded in; "auto" keeps the checkpoint's own."""

SCHEMES = {"int8": None, "int4": 32}
"""Ways to round weights, and how many of a row share a scale; None: the whole row."""

BITS = {"int8": 8, "int4": 4}
"""Bits of a rounded weight."""

CAST = "bf16"
"""The rounding that casts weights to bfloat16, and computes in it."""
