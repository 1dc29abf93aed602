"""The command line, a file for each verb."""

from unembed.cli.group import cli, main, run_process

__all__ = ["cli", "main", "run_process"]
