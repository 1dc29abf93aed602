"""``python -m unembed``."""

from unembed.cli import run_process

run_process()
