"""The command line, a file for each verb."""

from unembed.cli.group import cli, main

__all__ = ["cli", "main"]
