"""What torch does while it runs, for the tests of cost and memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class RecordOperations(TorchDispatchMode):
    """Every operation's name, and the size and dtype of every tensor that one returns."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.sizes: list[int] = []
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.names.append(func.overloadpacket.__name__)
        tensors = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        self.sizes += [t.numel() for t in tensors]
        self.dtypes |= {t.dtype for t in tensors}
        return out
