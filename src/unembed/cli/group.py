"""The command line: parse, call the verb, save, print."""

from __future__ import annotations

import errno
import sys
import warnings
from typing import Any

import click

from unembed.cli.audit import audit_command
from unembed.cli.choose.align import align_command
from unembed.cli.choose.index import index_command
from unembed.cli.choose.mix import mix_command
from unembed.cli.choose.rank import rank_command
from unembed.cli.choose.sketch import sketch_command
from unembed.cli.compare import compare_command
from unembed.cli.demo import demo_command
from unembed.cli.dose import dose_command
from unembed.cli.refine import refine_command
from unembed.cli.report import report_command
from unembed.errors import UnembedError

VERBS = (
    audit_command,
    compare_command,
    refine_command,
    dose_command,
    sketch_command,
    align_command,
    rank_command,
    mix_command,
    index_command,
    demo_command,
    report_command,
)


class Verbs(click.Group):
    """The verbs, with one policy for what goes wrong in any of them.

    What the user can mend is one line on stderr and exit status 2; Ctrl-C is one line and 130;
    anything else is a defect and keeps its traceback.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb that was asked for."""
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()
            return done
        except UnembedError as error:
            _fail(str(error))
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename is not None:
                raise
            _fail(f"the output cannot be printed: {error.strerror}; make room or print elsewhere")
        except KeyboardInterrupt:
            click.echo("unembed: stopped; the same command goes on from here", err=True)
            sys.exit(130)


def main() -> None:
    """Run the command line."""
    cli(prog_name="unembed")


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="unembed")
def cli() -> None:
    """The geometry of a language model's output head: measure, compare and move token decisions.

    \b
    Example:
      unembed audit ./my-model reviews.txt -o runs/reviews
    """


for verb in VERBS:
    cli.add_command(verb)


def _fail(message: str) -> None:
    click.echo(f"unembed: {' '.join(message.split())}", err=True)
    sys.exit(2)
