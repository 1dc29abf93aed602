"""The benchmarks of a refinement: run on the checkpoint it starts from, and on its result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unembed.errors import UnembedError
from unembed.models.checkpoint import Checkpoint, load
from unembed.runs.provenance import digest_of
from unembed.short_repr import ShortRepr
from unembed.training.benchmarks.harness import check_names
from unembed.training.benchmarks.run import (
    TASKS,
    BenchmarkComparison,
    benchmark,
    check_tasks,
    compare_benchmarks,
)


@dataclass(frozen=True)
class Benchmarks(ShortRepr):
    """Which tasks of lm-evaluation-harness both models are run on, and how; as ``benchmark``.

    Raises UnembedError where a value cannot be used, or where the harness is not installed.
    """

    tasks: tuple[str, ...] = TASKS
    limit: int | None = None
    batch_size: int = 1
    include_path: str | None = None

    def __post_init__(self) -> None:
        check_tasks(self.tasks, self.limit, self.batch_size, self.include_path)

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise UnembedError where the harness could not run, before a training is spent on it.

        It loads a model by its name, in the precision of the files: that has to give the weights
        that the training starts from.
        """
        _refuse_without_files(checkpoint.name)
        if not set(self.tasks) <= set(TASKS):
            check_names(self.tasks, self.include_path)
        device = next(checkpoint.model.parameters()).device
        found = load(checkpoint.name, device=str(device)).model
        if digest_of(found) != digest_of(checkpoint.model):
            raise UnembedError(
                f"benchmarks read {checkpoint.name} from disk, and it holds other weights, or in "
                "another precision, than the model given: save that one to a folder and load it "
                "from there, with dtype auto"
            )

    def run_on_both(
        self, start: Checkpoint, refined: Path, out: Path, progress: bool
    ) -> BenchmarkComparison:
        """Run the tasks on both models, in ``out/before`` and ``out/after``, and compare.

        Goes on after the last finished task of either. Raises UnembedError as ``benchmark``.
        """
        device = str(next(start.model.parameters()).device)
        # The path of a resumed run may be written otherwise.
        sides = (("before", start.name), ("after", str(refined.resolve())))
        runs = [
            benchmark(
                model,
                out / side,
                self.tasks,
                limit=self.limit,
                batch_size=self.batch_size,
                device=device,
                include_path=self.include_path,
                progress=progress,
            )
            for side, model in sides
        ]
        return compare_benchmarks(*runs)


def _refuse_without_files(name: str) -> None:
    from transformers.utils.hub import cached_file

    try:
        config = cached_file(name, "config.json", local_files_only=True)
    except OSError:
        config = None
    if config is None:
        raise UnembedError(
            f"benchmarks need a model on disk, and {name!r} is neither the folder of a checkpoint "
            "nor a model loaded from the hub: save it to a folder and load it from there"
        )
