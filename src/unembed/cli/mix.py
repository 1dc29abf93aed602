"""``unembed mix``."""

from __future__ import annotations

import click


@click.command("mix")
def mix_command() -> None:
    """Mix sources."""
