"""Moving the boundaries: a recipe, its run, doses of it, and what disturbs the result."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
