"""What a model reads: rows of any source, tokens, documents, windows, the vocabulary."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
