"""Made-up ladders: variants whose noise and sizes are known."""

from __future__ import annotations

from functools import cache

import numpy as np

from made_up.comparisons import make_comparison
from unembed.decisions.comparison.compare import Comparison
from unembed.decisions.comparison.divergences import DivergenceColumns
from unembed.decisions.ladder.ladder import Ladder
from unembed.decisions.ladder.summary import (
    LadderText,
    ModelFacts,
    Refused,
    summarise_ladder,
)
from unembed.models.quantization import RoundedShare
from unembed.models.stored_size import WeightBytes

NOISE = {"bf16": 0.01, "int8": 0.05, "awq": 0.3, "int4": 0.7}
"""Of the logits after, by variant."""
SIZES = {"base": 2_400_000, "bf16": 1_200_000, "int8": 800_000, "awq": 520_000, "int4": 500_000}


def facts(name: str) -> ModelFacts:
    scheme = name if name in ("int8", "int4", "bf16") else None
    rounded = () if name == "base" else (RoundedShare("all weights", 400_000, 600_000),)
    known = "stored" if scheme is None else "nominal"
    size = WeightBytes(SIZES[name] - 200_000, 200_000, known, rounded)  # type: ignore[arg-type]
    return ModelFacts(name, f"example/{name}", scheme, "float32", f"{SIZES[name]:064x}", size)


@cache
def comparison(noise: float, n: int) -> Comparison:
    rng = np.random.default_rng(round(1000 * noise))
    kl = np.exp(rng.normal(2 * np.log(noise), 1.0, n)).astype(np.float32)
    columns = DivergenceColumns(
        kl, kl, np.minimum(1, np.sqrt(kl / 2)).astype(np.float32), np.full(n, 0.75, np.float32)
    )
    made = make_comparison(noise, n, columns)
    table = made.in_memory
    assert table is not None
    in_memory = table.append_column("kl_forward", [kl])
    return Comparison(made.summary, {}, made.vocabulary, made.documents, in_memory=in_memory)


@cache
def make_ladder(texts: int = 1, *, refused: bool = True) -> Ladder:
    """Four variants on one text or on several."""
    read = [LadderText(f"text{i}", f"text{i}.txt", 12, 1500 - 300 * i) for i in range(texts)]
    found = {
        (text.name, name): comparison(noise, text.positions)
        for text in read
        for name, noise in NOISE.items()
    }
    failed = [Refused("gptq", "example/gptq", "its weights are damaged")] if refused else []
    summary = summarise_ladder(
        facts("base"), [facts(name) for name in NOISE], read, found, refused=failed, resamples=100
    )
    return Ladder(summary)
