"""``python -m unembed``."""

from unembed.cli import main

main()
