"""Why a checkpoint does not load: the cause that its files or its error show, and the remedy."""

from __future__ import annotations

import json
import re
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from unembed.errors import UnembedError

READ = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""Files of a checkpoint that loading may open."""

PACKAGE = re.compile(
    r"pip install (?:-U |--upgrade )?[`'\"]?([A-Za-z][\w-]*)(?![\w+-])"
    r"|need(?:s)? to install `?([A-Za-z][\w-]*)"
    r"|requires the `?([A-Za-z][\w-]*)`? (?:library|package)"
    r"|No module named '([A-Za-z]\w*)",
    re.IGNORECASE,
)
"""How transformers and Python say that a package is missing."""

TIED = "tie_word_embeddings"


def refuse_unreadable(folder: Path) -> None:
    """Raise UnembedError for a file of a checkpoint that may not be read.

    Loading would call it missing or damaged.
    """
    for file in sorted({file for pattern in READ for file in folder.glob(pattern)}):
        try:
            with file.open("rb"):
                pass
        except PermissionError as error:
            raise UnembedError(
                f"{file} may not be read ({error.strerror}): give yourself the right to read it "
                "(chmod u+r), or ask its owner"
            ) from None
        except OSError:
            continue


def missing_package(error: BaseException) -> str | None:
    """The package that an error asks for, where it is not installed."""
    for name in (name for found in PACKAGE.findall(str(error)) for name in found if name):
        if not _installed(str(name).lower()):
            return str(name).lower()
    return None


def _installed(package: str) -> bool:
    """Whether a distribution, or else a module, has this name."""
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return find_spec(package.replace("-", "_")) is not None
    return True


def untied_head(name: str, untrained: list[str], head: str | None) -> str | None:
    """Why a head has no weight of its own, where the head's weight is all that is missing."""
    if head is None or untrained != [f"{head}.weight"]:
        return None
    try:
        config = json.loads((Path(name) / "config.json").read_text())
        said = config.get("text_config", config).get(TIED, config.get(TIED))
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    where = f"says {json.dumps(said)} for {TIED}" if said is not None else f"has no {TIED}"
    return (
        f"its config.json {where}, so that nothing says where the output head comes from. If the "
        f'head is the input embedding, write "{TIED}": true there; else'
    )
