"""``unembed rank``."""

from __future__ import annotations

import click


@click.command("rank")
def rank_command() -> None:
    """Order sources."""
