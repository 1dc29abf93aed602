"""Text that every CPython installation carries, split into train and held-out documents.

Three kinds of document are found without any download:

* ``topic:assignment`` -- a documentation topic from :mod:`pydoc_data.topics`;
* ``doc:builtins.str`` -- the docstrings of a module or class written in C;
* ``asyncio/events.py`` -- a source file of the standard library, comments included.

The split is a fixed hash of the *subject* a document belongs to: ``json/decoder.py``,
``test/test_json/test_decode.py`` and ``doc:_json`` are all about ``json`` and always land on the
same side.  It depends on names alone, so a subject that is held out is held out on every Python
version.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import inspect
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from unembed.short_repr import ShortRepr

__all__ = ["Document", "documents", "is_heldout", "subject"]

Split = Literal["train", "heldout"]

# One subject in BUCKETS is held out.  The salt was chosen for a varied selection.
BUCKETS = 20
SALT = "1985:"

# Shorter texts are empty packages and one-line shims.
MIN_CHARS = 100
# Paragraphs shorter than this may be shared between topics by accident.
MIN_PARAGRAPH = 60
# More digits than this per character: a table, not a text.
MAX_DIGIT_SHARE = 0.15

SKIPPED_DIRS = frozenset({"site-packages", "dist-packages", "__pycache__", "lib-dynload"})
# Syntax-error fixtures, machine-dependent files and generated tables.
SKIPPED_PATHS = re.compile(
    r"""
      (^|/)(bad_|badsyntax_)
    | ^lib2to3/tests/data/
    | ^(_sysconfigdata|_sysconfig_vars|sitecustomize|usercustomize)
    | ^(config-|pydoc_data/|html/entities\.py|re/_casefix\.py|this\.py)
    """,
    re.VERBOSE,
)

# Modules usually written in C; those that this Python lacks are left out.
C_MODULES = (  # noqa: SIM905
    "_asyncio _bisect _blake2 _bz2 _codecs _collections _contextvars _csv _ctypes _curses"
    " _datetime _decimal _elementtree _functools _hashlib _heapq _io _json _lsprof _lzma"
    " _operator _pickle _posixsubprocess _queue _random _signal _socket _sqlite3 _sre _ssl _stat"
    " _statistics _string _struct _symtable _thread _tracemalloc _weakref _zoneinfo array atexit"
    " audioop binascii builtins cmath errno faulthandler fcntl gc grp itertools marshal math mmap"
    " ossaudiodev posix pwd pyexpat resource select spwd sys syslog termios time unicodedata"
    " winreg zlib"
).split()

# Names of one subject that do not share a first word.
SAME_SUBJECT = {
    name: subject
    for subject, names in {
        "ast": "unparse",
        "bytes": "bytearray",
        "cgi": "cgitb",
        "codecs": "charmapcodec codeccallbacks codecencodings codecmaps multibytecodec testcodec",
        "collections": "defaultdict deque ordered userdict userlist userstring",
        "concurrent": "interpreters",
        "datetime": "datetimetester pydatetime",
        "decimal": "pydecimal",
        "dict": "dictcomps dictviews",
        "dis": "opcode",
        "hashlib": "blake hashopenssl hmac md sha",
        "html": "htmlparser markupbase",
        "http": "httplib httpservers simplehttp",
        "int": "long pylong",
        "io": "bufio fileio largefile memoryio pyio univnewlines",
        "libregrtest": "regrtest",
        "list": "lists",
        "os": "genericpath ntpath posix posixpath",
        "pathlib": "path",
        "pdb": "bdb",
        "pickle": "pickletester pickletools",
        "profile": "cprofile lsprof pstats",
        "re": "sre",
        "set": "frozenset",
        "signal": "threadsignals",
        "smtplib": "smtpd smtpnet",
        "str": "unicode",
        "subprocess": "bootsubprocess posixsubprocess",
        "sysconfig": "osx",
        "tempfile": "threadedtempfile",
        "threading": "thread threadsafety",
        "time": "strptime",
        "tkinter": "tcl tk ttk",
        "trace": "tracedmodules",
        "unicodedata": "ucn",
        "urllib": "robotparser urllibnet urlparse",
        "weakref": "weakrefset weakset",
        "xml": "elementtree expat minidom pulldom pyexpat sax",
        "xmlrpc": "docxmlrpc",
    }.items()
    for name in names.split()
}


@dataclass(frozen=True)
class Document(ShortRepr):
    """One piece of text and the name it is known by."""

    name: str
    text: str


def subject(name: str) -> str:
    """What the document called ``name`` is about: the word that decides its side of the split.

    It is the first word of the module's name: ``http`` for ``http/cookies.py``
    and ``test/test_http_cookies.py`` alike.  Topics are subjects of their own, and so is each
    class of ``builtins``.
    """
    if name.startswith("topic:"):
        return name
    parts = name.removeprefix("doc:").removesuffix(".py").replace(".", "/").split("/")
    while len(parts) > 1 and parts[0] in ("test", "support", "builtins"):
        del parts[0]
    words = re.match(r"_*(?:test_+)?([a-z]+)", parts[0].lower())
    word = words.group(1) if words else parts[0]
    return SAME_SUBJECT.get(word, word)


def is_heldout(name: str) -> bool:
    """Whether the document called ``name`` is on the held-out side."""
    digest = hashlib.sha256(f"{SALT}{subject(name)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS == 0


def documents(split: Split) -> Iterator[Document]:
    """The documents of one split, in a fixed order and without exact duplicates.

    Training documents that are copies of held-out ones are left out, and so are the paragraphs
    that training topics share with held-out topics.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"split must be 'train' or 'heldout', not {split!r}")
    heldout = split == "heldout"
    seen: set[bytes] = set()
    if not heldout:
        seen = {_digest(document.text) for document in documents("heldout")}
    for source in (_topics, _docstrings, _source_files):
        for document in source(heldout):
            digest = _digest(document.text)
            if len(document.text) >= MIN_CHARS and digest not in seen:
                seen.add(digest)
                yield document


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _topics(heldout: bool) -> Iterator[Document]:
    """The documentation topics, less what training topics quote from held-out ones."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return
    sides: dict[bool, dict[str, str]] = {False: {}, True: {}}
    for key in sorted(topics):
        name = f"topic:{key}"
        sides[is_heldout(name)][name] = topics[key]
    if heldout:
        for name, text in sides[True].items():
            yield Document(name, text)
        return
    hidden = {
        paragraph.strip()
        for text in sides[True].values()
        for paragraph in text.split("\n\n")
        if len(paragraph.strip()) >= MIN_PARAGRAPH
    }
    for name, text in sides[False].items():
        kept = [paragraph for paragraph in text.split("\n\n") if paragraph.strip() not in hidden]
        yield Document(name, "\n\n".join(kept))


def _docstrings(heldout: bool) -> Iterator[Document]:
    """The docstrings of modules written in C: one document per module and one per class."""
    for module_name in sorted({*C_MODULES, *sys.builtin_module_names} - {"__main__"}):
        if module_name != "builtins" and is_heldout(f"doc:{module_name}") != heldout:
            continue
        if module_name.startswith(("_test", "xx", "_xx", "_frozen")):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated modules say so when imported
            try:
                module = importlib.import_module(module_name)
            except ImportError:
                continue
        for document in _module_docstrings(module):
            if is_heldout(document.name) == heldout:
                yield document


def _module_docstrings(module: ModuleType) -> Iterator[Document]:
    """The module's own docstring with its functions', then a document for each class."""
    entries = [inspect.getdoc(module) or ""]
    classes: list[Document] = []
    for name, value in sorted(vars(module).items()):
        if module is not builtins and vars(builtins).get(name) is value:
            continue
        if inspect.isclass(value) and value.__name__ == name:
            qualified = f"{module.__name__}.{name}"
            members = [
                _entry(f"{name}.{member}", method)
                for member, method in sorted(vars(value).items())
                if not member.startswith("_")
            ]
            text = "\n\n".join(filter(None, [_entry(f"class {qualified}", value), *members]))
            classes.append(Document(f"doc:{qualified}", text + "\n"))
        elif inspect.isbuiltin(value):
            entries.append(_entry(f"{module.__name__}.{name}", value))
    yield Document(f"doc:{module.__name__}", "\n\n".join(filter(None, entries)) + "\n")
    yield from classes


def _entry(title: str, value: object) -> str:
    """A heading with the signature, if there is one, above the indented docstring."""
    doc = getattr(value, "__doc__", None)
    if not isinstance(doc, str) or not doc.strip():
        return ""
    signature = getattr(value, "__text_signature__", None) or ""
    signature = re.sub(r"\$module(, /)?(, )?", "", signature).replace("$", "")
    lines = inspect.cleandoc(doc).splitlines()
    return "\n".join([title + signature, *(f"    {line}".rstrip() for line in lines)])


def _source_files(heldout: bool) -> Iterator[Document]:
    """The standard library's source files; only those of the wanted side are read."""
    root = Path(sysconfig.get_path("stdlib"))
    names: list[str] = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [sub for sub in subfolders if sub not in SKIPPED_DIRS]
        relative = Path(folder).relative_to(root)
        names += [(relative / file).as_posix() for file in files if file.endswith(".py")]
    for name in sorted(names):
        if SKIPPED_PATHS.search(name) or is_heldout(name) != heldout:
            continue
        text = (root / name).read_text(encoding="utf-8", errors="ignore")
        if not _is_table(name, text):
            yield Document(name, text)


def _is_table(name: str, text: str) -> bool:
    """Whether a source file is mostly generated numbers."""
    if name.startswith("encodings/") and ("decoding_table" in text or "decoding_map" in text):
        return True
    return sum(map(text.count, "0123456789")) > MAX_DIGIT_SHARE * len(text)
