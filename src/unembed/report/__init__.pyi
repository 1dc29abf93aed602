from .pages import load_run as load_run
from .pages import write_gallery as write_gallery
from .pages import write_page as write_page

__all__ = [
    # A finished run of any kind: its record, its page; a page that leads to those of several
    "load_run",
    "write_page",
    "write_gallery",
]
