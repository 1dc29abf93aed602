"""A small bundled language model, and the text it was trained and is evaluated on."""
