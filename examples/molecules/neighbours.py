"""Puts the examples that these build on, ``transfer`` and ``protocols``, where imports look."""

from __future__ import annotations

import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent
sys.path += [str(EXAMPLES / "transfer"), str(EXAMPLES / "protocols"), str(EXAMPLES)]
