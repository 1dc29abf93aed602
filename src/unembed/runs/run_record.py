"""Records that runs hold: one way to keep them in a folder, and one to load them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar, TypeVar

from unembed.errors import UnembedError
from unembed.runs.manifest import Facts, FinishedRun, read_run, verified_run
from unembed.runs.provenance import SCHEMA
from unembed.runs.store import RunFolder
from unembed.short_repr import ShortRepr

Record = TypeVar("Record", bound="RunRecord")
UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What a record raises of files that do not make sense."""


class Drawn:
    """What has a page: its charts are figures, and the page can be written anywhere.

    ``report.KIND`` has the page and the figures, and is imported when one is asked for.
    """

    KIND: ClassVar[str]
    _run_folder: Path | None = None

    @property
    def run_folder(self) -> Path | None:
        """The folder of the run that holds the record; None of one in memory."""
        folder: Path | None = getattr(self, "folder", None)
        return folder or self._run_folder

    @property
    def plot(self) -> Any:
        """Every chart of the record's page as a figure of Altair: a method each.

        A figure shows itself in a notebook, and ``save`` writes it as SVG, PNG or HTML. It takes
        the extra ``plot``: ``pip install 'unembed[plot]'``.
        """
        return resolve_name("unembed.report.pages:plots_of")(self)

    @property
    def verdict(self) -> Any:
        """What was found, in a sentence and three points: the words that page and terminal show.

        ``str()`` of it is a text of four lines, and ``to_json()`` the words by their names.
        """
        return resolve_name("unembed.report.verdicts.verdict:verdict_of")(self)

    def report(self, page: str | Path) -> Path:
        """Write the record's page, one HTML file that works offline, and return where it is.

        Equivalent to ``unembed report RUN -o page``; a record in memory has one too. Raises
        UnembedError where the file cannot be written, or holds what unembed did not make, and
        ``ReportUnavailable`` where the extra ``plot`` is not installed.
        """
        found: Path = resolve_name("unembed.report.pages:report_of")(self, page)
        return found


class RunRecord(ShortRepr, Drawn):
    """What a run of one kind holds. A kind of run is its record, its page and its verb.

    A record says its ``KIND`` and how it is read: ``from_json`` where ``summary.json`` holds all of
    it, else ``of_run``. ``report.pages`` names its page.
    """

    SCHEMA: ClassVar[int] = SCHEMA

    @classmethod
    def of_run(cls: type[Record], run: FinishedRun) -> Record:
        """Read the record of a run whose files are known to be whole."""
        return cls.from_json(run.summary())

    @classmethod
    def from_json(cls: type[Record], values: dict[str, Any]) -> Record:
        """The record of a run that is all in ``summary.json``."""
        raise NotImplementedError

    @classmethod
    def load(cls: type[Record], folder: str | Path) -> Record:
        """Open a finished run, with every file checked against its recorded SHA-256.

        Raises UnembedError where the folder holds none, one of another kind, a damaged one, or one
        whose files do not make sense.
        """
        run = verified_run(folder, cls.KIND, cls.SCHEMA)
        try:
            return cls._held_by(run)
        except UnembedError:
            raise
        except UNREADABLE as error:
            missing = "it lacks " if isinstance(error, KeyError) else ""
            reason = " ".join(f"{missing}{error}".split())
            raise UnembedError(
                f"{folder} is no {cls.KIND} that this version can read ({reason}): repeat the run "
                "in a new folder"
            ) from error

    @classmethod
    def keep(
        cls: type[Record],
        out: str | Path,
        key: Mapping[str, Any],
        find: Callable[[RunFolder], dict[str, Any]],
        *,
        facts: Facts | None = None,
        command: str = "",
        everything: bool = False,
        together: bool = False,
        wait_s: float = 0.0,
    ) -> Record:
        """Keep in ``out`` the summary that ``find`` gives, which is called unless it is there.

        ``key`` holds the plain values that it depends on; ``facts`` are for the page, and
        ``everything`` as in ``RunFolder.finish``. Under ``joined`` process 0 alone calls ``find``,
        and the others wait for it; with ``together`` all of them call it, and process 0 writes.
        ``wait_s`` is how long another process may go on writing the folder.
        Raises UnembedError where the folder holds another run, or cannot be written.
        """
        whole = cls.whole_key(key)
        if facts is not None:
            whole["facts"] = [list(fact) for fact in facts]
        with RunFolder.open(out, whole, wait_s) as folder:
            if not folder.finished:
                found = find(folder) if together else None

                def finish() -> None:
                    summary = found if together else find(folder)
                    folder.finish(command, summary, everything=everything)

                folder.by_first(finish)
        return cls._held_by(read_run(out))

    @classmethod
    def whole_key(cls, key: Mapping[str, Any]) -> dict[str, Any]:
        """The key of a run of this kind, by which its folder is known."""
        return {"kind": cls.KIND, "schema": cls.SCHEMA, **key}

    @classmethod
    def _held_by(cls: type[Record], run: FinishedRun) -> Record:
        """The record of a run, which knows where it lies."""
        record = cls.of_run(run)
        object.__setattr__(record, "_run_folder", run.folder)
        return record

    @property
    def sub_runs(self) -> Mapping[str, RunRecord]:
        """Runs inside this one that its page links to, by their folders."""
        return {}
