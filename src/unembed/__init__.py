"""The geometry of a language model's output head: measure, compare and move decisions; choose data.

What is public is listed in ``__init__.pyi`` beside this file, here and in each package. A name is
loaded when it is first used, so that ``import unembed`` costs next to nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
