from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from made_up.heads import random_head
from made_up.peers import ThreadPeers, at_peers, shared_head
from unembed.errors import HeadError
from unembed.head.head import Head
from unembed.head.peers import RowShare
from unembed.head.precision import Precision


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_rows_of_the_head_are_there_on_every_peer(count: int) -> None:
    head, _, _ = random_head(67, 5, 4, bias=True, dtype=torch.bfloat16)
    ids = torch.tensor([[66, 0, 33], [16, 17, 66]])
    offsets = head.bias
    assert offsets is not None

    def work(peers: ThreadPeers) -> None:
        held = shared_head(head, peers)
        assert held.vocab == 67
        assert torch.equal(held.rows_at(ids), head.weight[ids])
        bias = held.bias_at(ids)
        assert bias is not None
        assert bias.tolist() == [[float(offsets[token]) for token in row] for row in ids]
        assert held.rows_at(ids[:0]).shape == (0, 3, 5)

    at_peers(count, work)


@pytest.mark.parametrize("bias", [False, True])
def test_the_digest_is_that_of_the_whole_head(bias: bool) -> None:
    head, _, _ = random_head(67, 5, 4, bias=bias, padded=9, softcap=3.0, scale=0.5)

    def work(peers: ThreadPeers) -> Head:
        held = shared_head(head, peers)
        return Head.from_parts(
            held.weight, held.bias, head.scale, head.softcap, head.valid, share=held.share
        )

    found = at_peers(3, work)
    assert [one.digest for one in found] == [head.digest] * 3
    assert [one.tokens for one in found] == [head.tokens] * 3
    assert [one.own.vocab for one in found] == [23, 22, 22]
    assert sum(one.own.tokens for one in found) == head.tokens


def test_each_peer_gives_as_many_columns_as_it_has() -> None:
    whole = torch.arange(24.0).view(2, 12)
    spans = [(0, 5), (5, 6), (6, 12)]

    def work(peers: ThreadPeers) -> torch.Tensor:
        share = RowShare.of(7, peers)
        first, stop = spans[peers.place]
        return share.joined(whole[:, first:stop])

    for found in at_peers(3, work):
        assert torch.equal(found, whole)


def test_a_peer_without_rows_is_refused_by_all() -> None:
    def work(peers: ThreadPeers) -> str:
        with pytest.raises(HeadError) as refused:
            RowShare.of(0 if peers.place == 2 else 3, peers)
        return str(refused.value)

    assert set(at_peers(3, work)) == {
        "process 2 of 3 would hold no row of a head of 6: share it among fewer"
    }


def test_what_needs_every_row_says_so() -> None:
    head, _, _ = random_head(67, 5, 4)

    def work(peers: ThreadPeers) -> None:
        with pytest.raises(HeadError, match="a slice needs every row of the head in one process"):
            shared_head(head, peers).must_be_whole("a slice")

    at_peers(2, work)
    head.must_be_whole("a slice")


def test_all_peers_take_one_precision_and_the_plain_one_where_theirs_differ() -> None:
    own = [
        Precision("onednn", 1e-7, True, "compiled", "onednn"),
        Precision("onednn", 3e-7, True, "eager", "onednn"),
        Precision("ieee", 2e-7, True, "eager", "onednn"),
    ]
    assert at_peers(1, lambda peers: own[0].agreed(peers)) == [own[0]]
    for first, want in (
        (0, Precision("onednn", 3e-7, True, "eager", "onednn")),
        (1, Precision("ieee", 3e-7, False, "eager", "onednn")),
    ):
        found = at_peers(2, lambda peers, first=first: own[first + peers.place].agreed(peers))
        assert found == [want, want]


def test_processes_find_together_what_one_does() -> None:
    """Audits, losses with gradients, comparisons and sketches, over gloo: by four, and by twos."""
    launch = ("torch.distributed.run", "--standalone", "--nproc-per-node", "4")
    done = subprocess.run(
        [sys.executable, "-m", *launch, "-m", "made_up.rows_on_processes"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout
    for place in range(4):
        assert said.count(f"process {place} agrees with 4") == 1
        assert said.count(f"process {place} agrees with 2") == 1
