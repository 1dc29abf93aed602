"""How a text would move a whole model: one forward and one backward pass over it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unembed.errors import UnembedError, need
from unembed.models.checkpoint import Checkpoint
from unembed.models.mode import restores_mode
from unembed.models.model_pass import ALONE, ModelPass
from unembed.runs.phases import Phases, current_phases
from unembed.runs.progress import progress_bar
from unembed.runs.ranks import Ranks, current_ranks
from unembed.runs.store import RunFolder
from unembed.signatures.documents import FOLDS
from unembed.signatures.file import check_signature_output
from unembed.signatures.network.capture import Capture, frozen
from unembed.signatures.network.file import (
    load_network,
    network_as_bytes,
    network_from_bytes,
    save_network,
)
from unembed.signatures.network.modules import NetworkModule, network_modules
from unembed.signatures.network.signature import NetworkSignature, parts_kept
from unembed.signatures.network.sketcher import (
    NetworkBatch,
    NetworkOptions,
    NetworkSketcher,
    check_dtype,
)
from unembed.signatures.reading.run import UNFINISHED, refuse_too_few, run_digest, run_key
from unembed.signatures.sealed import LARGEST_FILE
from unembed.signatures.signature import check_name
from unembed.signatures.state import State
from unembed.signatures.sums import KEPT
from unembed.text.batches import Batch
from unembed.text.corpus import Corpus

KIND = "network signature"
PARTS = "sketch/"
BLOCK_TOKENS = 2048
"""Tokens that are read forward and backward at once: what lies between is held for each."""

States = Mapping[str, State]


@restores_mode
def sketch_network(
    checkpoint: Checkpoint,
    corpus: Corpus,
    options: NetworkOptions | None = None,
    *,
    out: str | Path | None = None,
    task: str | None = None,
    at_most: bool = False,
    progress: bool = False,
) -> NetworkSignature:
    """The signature of a text for a whole network: sketches of the Fishers of its gradients.

    Equivalent to, for the inputs a and the back-propagated errors δ of every linear module, of a
    window's summed cross-entropy::

        G = {module: sum(outer(δ, a) over positions)}    # of a window; unit "token": one position
        x, y = {module: r·G}, {module: s·G}              # random maps of each module's own
        full = mean(sum(x) * sum(y)); blocks = mean(sum(x * y)); module = mean(x * y)

    with one forward and one backward pass, and no gradient of a weight. The head's part is bitwise
    what ``sketch`` gives. With ``out`` it is written there; a killed run goes on where it stopped,
    and a finished file of the same run is checked and read. Raises UnembedError for input that
    cannot be used, and NonFiniteError, naming module and document, for a gradient that is not
    finite. Source: theory §12.
    """
    if task is not None:
        check_name(task)
    need(checkpoint, Checkpoint, "give unembed.load(name)")
    need(corpus, Corpus, "give Corpus.read(path, tokenizer)")
    options = options or NetworkOptions()
    if torch.is_inference_mode_enabled():
        raise UnembedError(
            "inference mode keeps no gradients: call sketch_network outside of "
            "torch.inference_mode()"
        )
    check_dtype(checkpoint, options.backward)
    modules = network_modules(checkpoint.model, options.modules)
    if out is not None:
        check_signature_output(out)
        check_size(modules, options)
    checkpoint.model.eval()
    task = task or (Path(out).name.removesuffix(".safetensors") if out else "text")
    with current_phases()("prepare"):
        reading = ModelPass.of(checkpoint.model, corpus, options, checkpoint.name, hash_model=True)
        plan = reading.plan
        block = min(plan.block_tokens, BLOCK_TOKENS)
        reading = replace(reading, plan=replace(plan, block_tokens=block))
        if not at_most:
            refuse_too_few(reading, options)
        sketcher = NetworkSketcher.of(reading, options, checkpoint, task, modules)
    if out is None:
        found = _pieces(reading, sketcher, frozenset(), progress)
        return sketcher.signature(reduce(_both, (states for _part, states in found)))
    path = Path(out)
    key = run_key(KIND, reading, sketcher.key, sketcher.facts)
    ranks = current_ranks()
    if ranks.from_first(f"whether {path} is there", path.exists()):
        return _finished(path, key)
    reading.check_shares(ranks)
    unfinished = path.with_name(path.name + UNFINISHED)
    with RunFolder.open(unfinished, key) as folder:
        done = frozenset(Path(one).stem for one in folder.done)
        for part, states in _pieces(reading, sketcher, done, progress, ranks):
            folder.write_bytes(
                f"{PARTS}{part}.safetensors", network_as_bytes(sketcher.signature(states))
            )

        def save_all() -> NetworkSignature:
            made = sketcher.signature(reduce(_both, _kept(folder)))
            signature = replace(made, facts=made.facts | {"run": run_digest(key)})
            save_network(signature, path)
            return signature

        signature = folder.by_first(save_all)
    if ranks.first:
        shutil.rmtree(unfinished)
    return load_network(path) if signature is None else signature


def check_size(modules: Sequence[NetworkModule], options: NetworkOptions) -> None:
    """Raise UnembedError for a signature whose file would be larger than one that is read."""
    m, first = options.m, options.first_moment
    others = len(parts_kept(modules)) - len(modules)
    entries = len(modules) * (3 + first) + others * (1 + first)
    size = entries * 8 * (FOLDS * (m + 1) + options.blocks * min(KEPT, m))
    if size > LARGEST_FILE:
        raise UnembedError(
            f"a signature of {len(modules):,} modules at --size {m} takes {size / 2**30:.1f} GiB, "
            f"of {LARGEST_FILE / 2**30:.0f} at most: give a smaller --size, or fewer --modules"
        )


def _pieces(
    reading: ModelPass,
    sketcher: NetworkSketcher,
    done: frozenset[str],
    progress: bool,
    ranks: Ranks = ALONE,
) -> Iterator[tuple[str, States]]:
    """The states of each part of the text that is not done yet."""
    captures = {id(model): Capture(sketcher.modules) for model in reading.models}

    def work(team: tuple[nn.Module, ...], batch: Batch, phases: Phases) -> NetworkBatch:
        return sketcher.read(reading, team[0], captures[id(team[0])], batch, phases)

    with contextlib.ExitStack() as stack:
        stack.enter_context(frozen(reading.models[0]))
        for model in reading.models:
            stack.enter_context(captures[id(model)].on(model))
        bar = stack.enter_context(
            progress_bar("sketch", "tok", reading.windows.positions, progress)
        )
        found = reading.each(work, bar, current_phases(), done=done, ranks=ranks)
        for part, batches in groupby(found, key=itemgetter(0)):
            gathering = sketcher.gathering()
            for _part, batch in batches:
                gathering.add(batch)
            yield part, gathering.states()


def _both(a: States, b: States) -> States:
    """Both's samples, by part of the network."""
    return {part: state + b[part] for part, state in a.items()}


def _kept(folder: RunFolder) -> Iterator[States]:
    """The states of all parts of the text that were kept, in order."""
    for path in sorted(path for path in folder.done if path.startswith(PARTS)):
        yield network_from_bytes((folder.folder / path).read_bytes(), path).states


def _finished(path: Path, key: dict[str, Any]) -> NetworkSignature:
    """The signature that lies at the path, if it is this run's."""
    there = load_network(path)
    if there.facts.get("run") != run_digest(key):
        raise UnembedError(
            f"{path} holds another signature of a network ({there.name}, {len(there.modules)} "
            f"modules, unit {there.unit}): give another -o, or delete it"
        )
    return there
