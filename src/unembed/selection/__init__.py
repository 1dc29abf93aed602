"""Which text to train on: rankings, mixtures, measured transfer, baselines, an index."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
