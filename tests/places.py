"""Where the tests find things."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
SHARED = ROOT.parent / "shared"
"""Real text, a tokenizer and a second real model, which not every machine has."""
