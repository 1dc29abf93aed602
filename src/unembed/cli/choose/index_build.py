"""``unembed index build``."""

from __future__ import annotations

from pathlib import Path

import click

from unembed.cli.help import Verb, option, under
from unembed.cli.printing import say

JSON = under("Output", option("--json", "as_json", is_flag=True, help="Print as JSON."))
WAIT = under(
    "Index", option("--wait", type=float, default=10.0, help="Seconds to wait for a writer.")
)


@click.command("build", cls=Verb)
@click.argument("index", type=click.Path(path_type=Path))
@WAIT
@JSON
def build_command(index: Path, wait: float, as_json: bool) -> None:
    """Prepare INDEX for --approximate queries, beyond a million entries.

    Needs faiss: pip install 'unembed[faiss]'. Entries added later are found too, though each is
    looked at; build again when they are many, and after the room of removed ones was given back.

    \b
    Example:
      unembed index build domains
      unembed index query domains mine.safetensors --approximate
    """
    from unembed.selection.index.index import Index

    rows = Index.open(index, check=False, wait_s=wait).build()
    values = {"index": str(index), "rows": rows}
    say(f"{index} answers --approximate from {rows:,} rows", values, as_json)
