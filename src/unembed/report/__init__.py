"""Records drawn as self-contained HTML pages; nothing is computed here."""
