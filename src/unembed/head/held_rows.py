"""The rows of a model's head that this process holds, where processes hold the model together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unembed.errors import HeadError
from unembed.head.kernels.running import SEGMENT
from unembed.head.peers import Peers, ProcessGroupPeers, RowShare
from unembed.short_repr import ShortRepr


@dataclass(frozen=True)
class HeldRows(ShortRepr):
    """Weight and bias of the rows that are held here, and which of all they are.

    ``share`` is None where the model is this process's alone, which then holds every row.
    """

    weight: Float[Tensor, "rows dim"]
    bias: Float[Tensor, " rows"] | None
    share: RowShare | None

    @property
    def first(self) -> int:
        """The id of the first row that is held here."""
        return 0 if self.share is None else self.share.first

    @property
    def vocab(self) -> int:
        """Rows of the whole head."""
        return len(self.weight) if self.share is None else self.share.rows

    @staticmethod
    def of(model: nn.Module, module: Any) -> HeldRows:
        """The rows of a model's output embedding that this process is to sweep.

        A head that the model's plan splits by rows is taken as it lies. Of one that every process
        holds whole, each takes an equal part, without a copy. Raises HeadError for a head that is
        split otherwise.
        """
        weight, bias = module.weight.detach(), getattr(module, "bias", None)
        bias = None if bias is None else bias.detach()
        peers = peers_of(model)
        if peers is None:
            return HeldRows(weight, bias, None)
        own, own_bias = _local(weight), None if bias is None else _local(bias)
        if not _is_split(weight):
            part = _part(len(own), peers)
            own, own_bias = own[part], None if own_bias is None else own_bias[part]
        elif own_bias is not None and len(own_bias) != len(own):
            raise HeadError(
                f"the head's weight is split into {len(own)} rows here and its bias is not: load "
                "the model on one process"
            )
        return HeldRows(own, own_bias, RowShare.of(len(own), peers))


def peers_of(model: nn.Module) -> Peers | None:
    """The processes that hold a model together by transformers' tensor parallelism, if any do."""
    if (getattr(model, "_tp_size", None) or 1) == 1:
        return None
    split = next((one for one in model.parameters() if hasattr(one, "device_mesh")), None)
    if split is None:
        return None
    mesh: Any = split.device_mesh
    return ProcessGroupPeers.of(mesh.get_group("tp" if mesh.ndim > 1 else None))


def same_storage(one: Tensor, other: Tensor) -> bool:
    """Whether two weights are one, such as a head's and the embedding that it is tied to."""
    return _local(one).data_ptr() == _local(other).data_ptr()


def _local(tensor: Tensor) -> Tensor:
    """What of a tensor lies in this process."""
    take: Any = getattr(tensor, "to_local", None)
    return tensor if take is None else take()


def _is_split(weight: Tensor) -> bool:
    """Whether the rows lie in several processes, one after the other.

    Raises HeadError where the weight is split otherwise.
    """
    placements: Any = getattr(weight, "placements", ())
    if all(one.is_replicate() for one in placements):
        return False
    if [one for one in placements if not one.is_shard(0)]:
        raise HeadError(
            f"the head's weight is split as {placements}, not by rows: load the model on one "
            "process"
        )
    return True


def _part(rows: int, peers: Peers) -> slice:
    """This process's part of so many rows; one begins at a whole segment where all have rows."""
    for unit in (SEGMENT, 1):
        height = -(-rows // (unit * peers.count)) * unit
        if height * (peers.count - 1) < rows:
            break
    return slice(height * peers.place, min(rows, height * (peers.place + 1)))


def largest(peers: Peers | None, *values: float) -> list[float]:
    """The largest of what all peers found, value by value: all of them then decide alike."""
    if peers is None:
        return list(values)
    told = peers.gather(torch.tensor(values, dtype=torch.float64))
    return [float(value) for value in torch.stack(told).amax(0)]
