"""The output head: its rows, exact products, the pass over the vocabulary, the loss."""
