"""Signatures of random features."""

from __future__ import annotations

import numpy as np
import torch

from unembed.signatures.batch_sums import accumulate
from unembed.signatures.signature import Identity, Signature
from unembed.signatures.sketches.sketch import SketchSpec
from unembed.signatures.state import Features, empty

M = 64

IDENTITY = Identity(SketchSpec(50, 8, m=M), "token", "empirical", "head", "body", "tokenizer")


def random_signature(
    name: str,
    seed: int,
    *,
    documents: int = 20,
    each: int = 3,
    m: int = M,
    like: int = 0,
    first: bool = True,
) -> Signature:
    """Random features around a centre of the seed's own and one that all of ``like`` share."""
    own, common = np.random.default_rng(seed), np.random.default_rng([like, 1])
    rows = documents * each

    def features() -> torch.Tensor:
        centre = common.normal(size=m) + 0.7 * own.normal(size=m)
        noise = np.repeat(own.normal(size=(documents, m)), each, 0) + own.normal(size=(rows, m))
        return torch.from_numpy(centre + 0.5 * noise).float()

    hashes = np.random.default_rng([seed, 2]).integers(1, 1 << 62, documents, dtype=np.uint64)
    some = Features(
        *(features() for _ in range(3)), features() if first else None, torch.ones(rows)
    )
    state = accumulate(empty(m, first=first), some, np.repeat(hashes, each))
    identity = Identity(SketchSpec(50, 8, m=m), "token", "empirical", "head", "body", "tokenizer")
    return Signature(name, identity, state, {"model": "made up", "text": f"{name}.txt"})
