"""``unembed compare`` of two run folders of ``unembed layers``."""

from __future__ import annotations

from pathlib import Path

from unembed.cli.compare_logs import both_are, refuse_options
from unembed.cli.printing import Output, typed
from unembed.errors import UnembedError
from unembed.runs.phases import current_phases


def given_layers(before: str, after: str) -> bool:
    """Whether both are runs of layers. Raises UnembedError where one is."""
    return both_are(
        (before, after),
        _is_layers,
        "is a run of unembed layers",
        "give two runs of layers on one text, or two audits",
    )


def compare_layers_command(before: str, after: str, corpus: str | None, output: Output) -> None:
    """Compare the runs; of the verb's options none but the general ones goes with them."""
    from unembed.decisions.layers.compare import compare_layers
    from unembed.decisions.layers.layers import Layers

    if corpus is not None:
        raise UnembedError(f"runs of unembed layers take no CORPUS: leave {corpus} out")
    refuse_options("runs of unembed layers")
    old, new = (Layers.load(run) for run in (before, after))
    with current_phases()("compare"):
        done = compare_layers(old, new, out=output.folder, command=typed())
    output.end(done)


def _is_layers(name: str) -> bool:
    from unembed.runs.manifest import JOURNAL, MANIFEST, read_run

    if not any((Path(name) / file).exists() for file in (MANIFEST, JOURNAL)):
        return False
    run = read_run(name)

    from unembed.decisions.layers.layers import Layers

    return run.kind == Layers.KIND
