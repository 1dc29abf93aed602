"""Text of others, names and tags and paths, as it may be shown in a terminal or on a page."""

from __future__ import annotations

import re

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Text whose invisible and direction-changing characters are spelt out as ``⟨U+202E⟩``.

    Newlines and tabs stay. Lone surrogates, which UTF-8 cannot hold, are spelt out too.
    """
    return _UNSEEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)
