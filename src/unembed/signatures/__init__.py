"""How a text would move a model: the Fisher of the head's gradients as a small vector."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
