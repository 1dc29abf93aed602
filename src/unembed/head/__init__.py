"""The output head: its rows, exact products, the pass over the vocabulary, the loss."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
