"""Moving the boundaries after training, and what it costs.

The package can be called as its verb: ``unembed.refine(...)`` is ``unembed.refine.train.refine``,
whatever was imported before.
"""

import sys
from types import ModuleType
from typing import Any


class _Verb(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from unembed.refine.train import refine

        return refine(*args, **kwargs)


sys.modules[__name__].__class__ = _Verb
