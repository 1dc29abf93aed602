"""The command line: parse, call the verb, save, print."""

from __future__ import annotations

import atexit
import errno
import io
import os
import sys
import warnings
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from unembed.cli.audit import audit_command
from unembed.cli.check import check_command
from unembed.cli.choose.align import align_command
from unembed.cli.choose.index import index_command
from unembed.cli.choose.mix import mix_command
from unembed.cli.choose.rank import rank_command
from unembed.cli.choose.sketch import sketch_command
from unembed.cli.compare import compare_command
from unembed.cli.demo import demo_command
from unembed.cli.dose import dose_command
from unembed.cli.help import Listing
from unembed.cli.launch import Terminated, as_rank, end_now
from unembed.cli.layers import layers_command
from unembed.cli.printing import echo
from unembed.cli.refine import refine_command
from unembed.cli.report import report_command
from unembed.cli.rotate import rotate_command
from unembed.cli.states import states_command
from unembed.errors import UnembedError
from unembed.runs.phases import as_table, process_profile
from unembed.runs.ranks import NoFirstRankError, joined, launched

JOBS = {
    "Start here": (demo_command,),
    "Look": (
        check_command,
        audit_command,
        states_command,
        layers_command,
        compare_command,
        report_command,
    ),
    "Change": (refine_command, dose_command, rotate_command),
    "Choose": (sketch_command, align_command, rank_command, mix_command, index_command),
}
"""The verbs, by what they are for."""


MANY_RANKS = ("audit", "states", "layers", "compare", "sketch", "refine")
"""The verbs that the processes of a launch share."""


class Verbs(Listing):
    """The verbs, with one policy for what goes wrong in any of them.

    What the user can mend is one line on stderr and exit status 2; Ctrl-C is one line and 130;
    anything else is a defect and keeps its traceback.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb that was asked for."""
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        try:
            _check_unicode(sys.argv)
            with joined(unnoticed=end_now):
                done = copy_context().run(self._profiled, ctx)
            sys.stdout.flush()
            return done
        except NoFirstRankError as error:
            end_now(str(error), first=True)
        except UnembedError as error:
            _fail(str(error))
        except click.ClickException as error:
            _fail_usage(error)
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename is not None:
                raise
            _fail(f"the output cannot be printed: {error.strerror}; make room or print elsewhere")
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            _fail(
                "memory ran out: make room, or allow more address space (ulimit -v), and repeat "
                "the same command; what was finished is kept"
            )
        except Terminated:
            click.echo(
                "unembed: ended from outside (SIGTERM), by its launcher where another rank ended "
                "first; the same command goes on from here",
                err=True,
            )
            sys.exit(143)
        except KeyboardInterrupt:
            click.echo("unembed: stopped; the same command goes on from here", err=True)
            sys.exit(130)

    def _profiled(self, ctx: click.Context) -> Any:
        """Run the verb, and say where its time went if that was asked for and nothing has."""
        done = super().invoke(ctx)
        seconds = process_profile()
        if seconds is not None:
            echo(as_table(seconds), err=True)
        return done

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; what is wrong is shown as everything else is.

        Under a launcher, a verb that is no work for many processes is refused.
        """
        verb = next((word for word in args if word in self.commands), None)
        if launched() and verb is not None and verb not in MANY_RANKS:
            _fail(
                f"{verb} is the work of one process: leave the launcher out; ranks share "
                f"{', '.join(MANY_RANKS[:-1])} and {MANY_RANKS[-1]}"
            )
        try:
            return super().parse_args(ctx, args)
        except click.ClickException as error:
            _fail_usage(error)


def main() -> None:
    """Run the command line."""
    _open_streams()
    with as_rank():
        cli(prog_name="unembed")


def run_process() -> None:
    """Run the command line as all that this process does.

    It ends once what others registered for its end has run. To take every module, the model and the
    renderer of charts apart takes Python half a second, for nothing.
    """
    leave = _Leave()
    atexit.register(leave)  # The first that is registered runs last.
    try:
        main()
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            leave.code = ended.code or 0
        raise


@dataclass
class _Leave:
    """Ends the process where its exit status is known; else Python does."""

    code: int | None = None

    def __call__(self) -> None:
        if self.code is None:
            return
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            return  # Python tells of a pipe that nobody reads.
        os._exit(self.code)


@click.group(
    cls=Verbs,
    jobs={job: [str(verb.name) for verb in verbs] for job, verbs in JOBS.items()},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="unembed")
def cli() -> None:
    """The geometry of a language model's output head: measure, compare and move token decisions.

    \b
    Example:
      unembed audit ./my-model reviews.txt -o runs/reviews
    """


for verbs in JOBS.values():
    for verb in verbs:
        cli.add_command(verb)


def _open_streams() -> None:
    """Standard streams that take any text; closed ones read and write nothing.

    A file that is opened would take the number of a closed one, and be written by whatever prints.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # Python has none in the place of a stream that was closed when it began.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _check_unicode(words: list[str]) -> None:
    """Refuse a path that is no Unicode: manifests and tables could not hold it."""
    for word in words:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UnembedError(f"{word!a} is no UTF-8: rename the file or folder")


def _fail_usage(error: click.ClickException) -> NoReturn:
    """What click cannot make of the words, in one line; the bare command shows its help."""
    # Before click 8.2 a bare command shows its help without an error.
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        raise error
    context = getattr(error, "ctx", None)
    where = f"; see {context.command_path} --help" if context is not None else ""
    _fail(error.format_message().rstrip(".") + where)


def _out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, in Python, numpy, Arrow, or torch on a CPU or a GPU."""
    words = ("DefaultCPUAllocator", "can't start new thread")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(word in str(error) for word in words)
    )


def _fail(message: str) -> NoReturn:
    echo(f"unembed: {' '.join(message.split())}", err=True)
    sys.exit(2)
