"""Where a model's weights are put: on one device, split over processes, or spread by a map."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from unembed.errors import UnembedError
from unembed.head.head import output_embedding
from unembed.models.devices.device_map import head_resident
from unembed.models.devices.tensor_parallel import refuse_unrunnable, refuse_unsplit, split_over
from unembed.runs.ranks import Ranks, current_ranks, launched, own_gpu
from unembed.short_repr import ShortRepr

DeviceMap = str | Mapping[str, Any]


@dataclass(frozen=True)
class Placement(ShortRepr):
    """Where a model goes: to ``device``, by ``device_map``, or split over this process's team."""

    device: torch.device
    device_map: DeviceMap | None
    ranks: Ranks

    @staticmethod
    def of(device: str | None, device_map: DeviceMap | None) -> Placement:
        """The place asked for. Raises UnembedError, before a file is read, if there is none."""
        ranks = current_ranks()
        if device_map is not None:
            _check_map(device, device_map, ranks)
        elif ranks.tensor > 1:
            return Placement(_own_device(device), None, ranks)
        return Placement(usable_device(device), device_map, ranks)

    @property
    def split(self) -> bool:
        """Whether several processes hold the model together."""
        return self.device_map is None and self.ranks.tensor > 1

    def loading(self, name: str, config: Any, auto: Any, method: str | None) -> dict[str, Any]:
        """What to ask of transformers for it, once a configuration is read.

        ``method`` is the format of quantised weights. Raises UnembedError for a model that cannot
        be placed so, before its weights are read.
        """
        if self.split:
            self._refuse_packed(name, method, "--tp")
            refuse_unsplit(name, config, auto, self.ranks.tensor)
            return split_over(self.ranks)
        if self.device_map is None:
            return {}
        self._refuse_packed(name, method, "--device-map")
        device_map = self.device_map
        if device_map == "auto":
            device_map = head_resident(config, auto)
        # Here lies what accelerate writes again, because files hold it in another shape.
        folder = tempfile.mkdtemp(prefix="unembed-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return {"device_map": device_map, "offload_folder": folder}

    def put(self, name: str, model: Any) -> Any:
        """The loaded model in its place. Raises UnembedError where it does not run there."""
        if self.split:
            refuse_unrunnable(name, model)
            return model
        if self.device_map is None:
            return model.to(self.device)
        model.unembed_placement = self  # Its folder is there as long as the model is.
        if output_embedding(model).weight.is_meta:
            raise UnembedError(
                f"{name}: the device map offloads the output head, which every position needs: "
                "map it to a device"
            )
        return model

    @staticmethod
    def _refuse_packed(name: str, method: str | None, option: str) -> None:
        if method is not None:
            raise UnembedError(
                f"{name} holds weights in the format {method}, which {option} does not place: save "
                f"it again dequantised, or leave {option} out"
            )


def refuse_spread(name: str, device_map: DeviceMap | None) -> None:
    """Raise UnembedError where a model that an adapter is put in would not be on one device.

    ``name`` is the folder that holds the adapter.
    """
    split = current_ranks().tensor > 1
    if split or device_map is not None:
        option = "--tp" if split else "--device-map"
        raise UnembedError(
            f"{name} holds an adapter, which {option} puts in no place: save the merged model, or "
            f"leave {option} out"
        )


def refuse_placed(model: torch.nn.Module, work: str) -> None:
    """Raise UnembedError where a model's weights are not whole in this process.

    ``work`` is what would change them.
    """
    if any(one.is_meta or hasattr(one, "device_mesh") for one in model.parameters()):
        raise UnembedError(
            f"{work} whole weights in one process, which --tp and --device-map do not leave there: "
            "leave them out, or save the changed model and give that"
        )


def usable_device(asked: str | None) -> torch.device:
    """The device asked for, tried with a tensor; a GPU if there is one by default.

    Of the processes of one launch, each takes a GPU of its own.
    """
    try:
        place = torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
        if place == torch.device("cuda") and launched():
            place = torch.device("cuda", own_gpu(torch.cuda.device_count()))
        if place.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = next(iter(str(error).strip().splitlines()), repr(error)).rstrip(".:")
        raise UnembedError(
            f"--device {asked} cannot be used ({said}): leave it out to take a GPU "
            "if there is one, or give cpu"
        ) from None
    return place


def _own_device(asked: str | None) -> torch.device:
    """The device of this process among those that hold a model: its own GPU where there are any.

    transformers knows no other choice.
    """
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    if asked is not None and asked != kind:
        raise UnembedError(
            f"--device {asked} does not go with --tp, which takes "
            f"{'a GPU for each process' if kind == 'cuda' else 'the CPU here'}: leave it out"
        )
    if kind == "cpu":
        return torch.device("cpu")
    here = torch.cuda.device_count()
    own = int(os.environ.get("LOCAL_RANK", "0"))  # transformers' choice, and NCCL shares no GPU
    if own >= here:
        raise UnembedError(
            f"--tp needs a GPU for each process, and this machine has {here} for more than {own}: "
            f"launch {here} on it"
        )
    return torch.device("cuda", own)


def _check_map(device: str | None, device_map: DeviceMap, ranks: Ranks) -> None:
    if device is not None:
        raise UnembedError(
            f"--device {device} puts the model on one device and --device-map on several: give one "
            "of them"
        )
    if ranks.processes > 1:
        raise UnembedError(
            "--device-map spreads the model of one process over all devices, and "
            f"{ranks.processes} processes were launched: give --tp, or launch one"
        )
    if isinstance(device_map, str) and device_map != "auto":
        raise UnembedError(f"--device-map {device_map!r} is not known: give auto")
    if find_spec("accelerate") is None:
        raise UnembedError("--device-map needs accelerate: pip install accelerate")
