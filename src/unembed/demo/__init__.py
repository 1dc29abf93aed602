"""A small bundled language model, and the text it was trained and is evaluated on."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
