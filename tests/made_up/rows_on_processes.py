"""A program for a launch of several processes: what they find of a head that they hold together.

All processes hold one head, then two of them each: a team of several. Each process also has the
whole head, and asserts that both say the same and that all that hold it end with the same bits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from made_up.heads import random_head, trainable_head
from made_up.peers import shared_head
from unembed.decisions.measure import ColumnChoice, measure
from unembed.head.beside_final import sweep_beside_final
from unembed.head.changes import probability_changes
from unembed.head.divergence import SweptModel, divergence
from unembed.head.head import Head
from unembed.head.loss import head_loss
from unembed.head.peers import ProcessGroupPeers
from unembed.head.sampling import Sampling, acceptances
from unembed.head.sweep import sweep
from unembed.signatures.reading.features import features
from unembed.signatures.sketches.constructions import sketch_of
from unembed.signatures.sketches.sketch import SketchSpec

VOCAB, N = 1301, 40
WITHIN = {"float32": 2e-6, "float64": 1e-11}
"""Of the largest number of a column."""


def columns(found: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in records, lists and dictionaries, with where it was found."""
    if isinstance(found, Tensor | np.ndarray):
        yield name, torch.as_tensor(found).detach()
    elif isinstance(found, dict):
        for key, value in found.items():
            yield from columns(value, f"{name}.{key}")
    elif isinstance(found, list | tuple):
        for key, value in enumerate(found):
            yield from columns(value, f"{name}[{key}]")
    elif dataclasses.is_dataclass(found):
        for field in dataclasses.fields(found):
            yield from columns(getattr(found, field.name), f"{name}.{field.name}")


def agree(what: str, own: Any, whole: Any, peers: ProcessGroupPeers) -> None:
    """Assert that what was found together is that of the whole head, and the same everywhere."""
    digest = hashlib.sha256()
    for (name, got), (_, want) in zip(columns(own), columns(whole), strict=True):
        digest.update(got.contiguous().view(-1).view(torch.uint8).numpy().data)
        if got.is_floating_point():
            size = float(want.abs().max()) if want.numel() else 0.0
            within = WITHIN[str(got.dtype).removeprefix("torch.")] * max(size, 1e-3)
            torch.testing.assert_close(got, want, rtol=0, atol=within, msg=f"{what}{name}")
        else:
            assert torch.equal(got, want), f"{what}{name}"
    own_digest = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
    assert all(torch.equal(one, own_digest) for one in peers.gather(own_digest)), what


def audits(peers: ProcessGroupPeers) -> None:
    wanted = ColumnChoice(top_k=5, facets=True, native_head=True)
    for how in ({"bias": True, "scale": 0.5, "softcap": 30.0, "padded": 700}, {"padded": 3}):
        for dtype in (torch.float32, torch.bfloat16):
            head, hidden, targets = random_head(VOCAB, 24, N, dtype=dtype, **how)  # type: ignore[arg-type]
            held = shared_head(head, peers)
            remade = Head.from_parts(
                held.weight, held.bias, held.scale, held.softcap, held.valid, share=held.share
            )
            assert remade.digest == head.digest
            found = [
                measure(hidden, one, targets, wanted, one.precision()) for one in (remade, head)
            ]
            agree("measure", *found, peers)


def losses(peers: ProcessGroupPeers) -> None:
    for dtype in (torch.float32, torch.float64):
        hidden, head, targets = trainable_head(VOCAB, 24, N, bias=True, softcap=6.0, dtype=dtype)
        found = []
        held = shared_head(head, peers)
        for one in (held, head):
            states = hidden.detach().clone().requires_grad_()
            said = head_loss(states, one, targets, 4, cosines=True)
            assert said.topk_cosines is not None
            total = said.nll.sum() - said.entropy.sum() + said.topk_cosines.square().sum()
            assert one.bias is not None
            found.append([said, *torch.autograd.grad(total, [states, one.weight, one.bias])])
        rows = slice(held.first, held.first + held.own.vocab)
        for got, want in zip(found[0][2:], found[1][2:], strict=True):
            within = 1e-6 if dtype == torch.float32 else 1e-12
            assert float((got - want[rows]).abs().max()) <= within * float(want.abs().max())
        agree("loss", *(each[:2] for each in found), peers)


def comparisons(peers: ProcessGroupPeers) -> None:
    head, hidden, targets = random_head(VOCAB, 24, N, size=8.0, bias=True)
    small, moved, _ = random_head(VOCAB, 16, N, size=8.0)
    wide = torch.cat([small.weight, torch.zeros(77, 16)])
    other = Head.from_parts(wide, valid=torch.arange(len(wide)) < VOCAB)
    group = torch.arange(N) % 3
    found = []
    for some in ([head, other], [shared_head(one, peers) for one in (head, other)]):
        models = []
        for one, states in zip(some, (hidden, moved), strict=True):
            precision = one.precision()
            models.append(SweptModel(states, one, sweep(states, one, targets), precision))
        found.append(
            [
                divergence(*models),
                probability_changes(*models, group, 3, k=3, kept=20),
                acceptances(*models, [Sampling(), Sampling(0.7, top_p=0.9)]),
                sweep_beside_final(hidden, [lambda rows: hidden[rows] * 0.9], some[0], targets),
            ]
        )
    agree("comparison", found[1], found[0], peers)


def sketches(peers: ProcessGroupPeers) -> None:
    head, hidden, targets = random_head(VOCAB, 24, N, size=12.0, padded=5)
    sketch = sketch_of(SketchSpec(VOCAB, 24, "complex_tensorsketch", 256, seed=1))
    for fisher in ("empirical", "true"):
        found = [
            features(hidden, one, targets, sketch, fisher=fisher)  # type: ignore[arg-type]
            for one in (shared_head(head, peers), head)
        ]
        agree(f"sketch, {fisher}", *found, peers)


def main() -> None:
    distributed.init_process_group("gloo")
    place, count = distributed.get_rank(), distributed.get_world_size()
    pairs = [distributed.new_group([first, first + 1]) for first in range(0, count, 2)]
    for peers in (ProcessGroupPeers.of(), ProcessGroupPeers.of(pairs[place // 2])):
        for work in (audits, losses, comparisons, sketches):
            work(peers)
        sys.stdout.write(f"process {place} agrees with {peers.count}\n")
    sys.stdout.flush()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
