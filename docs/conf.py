"""How Sphinx builds the site: ``make docs`` (why Sphinx: decisions/documentation-site.md)."""

import ast
import os
import re
import textwrap
from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

import unembed
from unembed.report.parts.glossary import GLOSSARY

DOCS = Path(__file__).parent
PACKAGE = Path(unembed.__file__).parent

project = "unembed"
author = "The unembed authors"
copyright = f"2026, {author}"
version = release = version_of("unembed")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

smartquotes = False  # would join the two hyphens of an option

# Pages
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
suppress_warnings = ["myst.header"]  # the pages of a decision begin where their list leaves off

# Notebooks are stored without outputs and run for the site, unless UNEMBED_NOTEBOOKS=off.
nb_execution_mode = os.environ.get("UNEMBED_NOTEBOOKS", "cache")
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

# Reference
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
python_trailing_comma_in_multi_line_signatures = False
add_module_names = False

# Look
html_theme = "furo"
html_title = "unembed"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
pygments_style = "default"
pygments_dark_style = "monokai"
copybutton_prompt_text = "$ "
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1c5d99", "color-brand-content": "#1c5d99"},
    "dark_css_variables": {"color-brand-primary": "#8cc4f5", "color-brand-content": "#8cc4f5"},
}

ROOT_PAGES = ("contributing", "changelog")
"""Pages of the site whose text is that of CONTRIBUTING.md and CHANGELOG.md."""
TO_ROOT_PAGE = re.compile(r"\]\((?:\.\./)*(CONTRIBUTING|CHANGELOG)\.md")
PUBLIC_NAMES = re.compile(r"^```\{public-names\} ([\w.]+)\n```$", re.MULTILINE)
THEORY = re.compile(r"theory §(\d+)")


def complete_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Fill in what a page takes from the code, and lead its links to pages of the site."""
    text = source[0]
    if page in ROOT_PAGES:
        file = DOCS.parent / f"{page.upper()}.md"
        app.env.note_dependency(str(file))
        text = file.read_text("utf-8").replace("](docs/", "](")
    elif page == "glossary":
        text += glossary()
    elif page == "decisions/README":
        text += "\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"
    up = "../" * page.count("/")
    text = TO_ROOT_PAGE.sub(lambda found: f"]({up}{found[1].lower()}.md", text)
    source[0] = PUBLIC_NAMES.sub(lambda found: public_names(found[1]), text)


def glossary() -> str:
    """The sentences that pages show on hover, as a glossary in the order of the alphabet."""
    terms = "\n".join(
        f"{term}\n{textwrap.indent(meaning, '  ')}\n" for term, meaning in GLOSSARY.items()
    )
    return f"\n```{{glossary}}\n:sorted:\n\n{terms}```\n"


def public_names(package: str) -> str:
    """The names that a package's stub lists, under the comments that group them there."""
    stub = PACKAGE.joinpath(*package.split(".")[1:], "__init__.pyi").read_text("utf-8")
    listed = stub[stub.index("__all__ = [") :]
    found = []
    for line in listed.splitlines()[1:-1]:
        entry = line.strip()
        if entry.startswith("#"):
            found.append(f"## {entry.removeprefix('#').strip()}\n")
            continue
        name = ast.literal_eval(entry.removesuffix(","))
        thing = getattr(__import__(package, fromlist=[name]), name)
        if not hasattr(thing, "__path__"):  # a package has a page of its own
            kind = "class" if isinstance(thing, type) else "function" if callable(thing) else "data"
            found.append(f"```{{eval-rst}}\n.. auto{kind}:: {package}.{name}\n```\n")
    return "\n".join(found)


def link_theory(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Lead the citations of docstrings to the sections of the theory."""
    lines[:] = [THEORY.sub(r":ref:`theory §\1 <theory-\1>`", line) for line in lines]


def name_sections(app: Sphinx, doctree: nodes.document) -> None:
    """Give the sections of the theory the names by which docstrings cite them."""
    if app.env.docname == "theory":
        known = app.env.domaindata["std"]
        for section in doctree.findall(nodes.section):
            found = re.match(r"§(\d+) ", section[0].astext())
            if found:
                label, place = f"theory-{found[1]}", ("theory", section["ids"][0])
                known["anonlabels"][label] = place
                known["labels"][label] = (*place, section[0].astext())


def show_examples_as_code(app: Sphinx, command: object, lines: list[str]) -> None:
    """Set the example of a verb's help in a block of its own."""
    at = next((i for i, line in enumerate(lines) if line.startswith("| Example")), None)
    if at is not None:
        end = next((i for i in range(at, len(lines)) if not lines[i].startswith("|")), len(lines))
        example = [f"   {line[1:].strip()}" for line in lines[at + 1 : end]]
        lines[at:end] = ["Example:", "", ".. code-block:: shell", "", *example, ""]


def setup(app: Sphinx) -> None:
    """Join the site's own steps to Sphinx's."""
    app.connect("source-read", complete_page)
    app.connect("autodoc-process-docstring", link_theory)
    app.connect("doctree-read", name_sections)
    app.connect("sphinx-click-process-description", show_examples_as_code)
