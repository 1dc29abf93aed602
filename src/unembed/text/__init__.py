"""What a model reads: rows of any source, tokens, documents, windows, the vocabulary."""
