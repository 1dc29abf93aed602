"""``unembed index``."""

from __future__ import annotations

import click


@click.group("index")
def index_command() -> None:
    """Keep signatures to ask."""
