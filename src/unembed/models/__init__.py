"""Checkpoints, adapters and quantised weights, and one pass of a model over a text."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
