"""Every kind of page on a screen and on a phone: all of it can be seen, read and reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from browser import Watched, browser_test
from made_up.pages import PAGES, page_of

LOOKS, CONTRAST = (
    Path(__file__).with_name(name).read_text() for name in ("looks.js", "contrast.js")
)

SCREENS = {"screen": (1280, 900), "phone": (390, 844)}

OPEN = """async () => {
  for (const one of document.querySelectorAll('details')) one.open = true;
  // What depends on sizes is done in the next frame.
  for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);
}"""

UNREACHED = """() => {
  const all = 'a[href], button, select, input, textarea, summary, [tabindex], ' +
    'svg:is(.map, .cloud), .chart svg:has([data-tip])';
  const shown = (one) =>
    one.checkVisibility({ checkVisibilityCSS: true }) && !one.closest('[hidden]');
  const stops = [...document.querySelectorAll(all)].filter(shown);
  // Of the parts of a group, the arrow keys reach those that Tab does not.
  const group = (one) =>
    one.type === 'radio' ? `radio ${one.name}`
      : one.matches('.token') ? 'tokens' : one.matches('[role=gridcell]') ? 'cells' : null;
  const seen = new Set(stops.filter((one) => one.dataset.seen).map(group));
  return stops
    .filter((one) => !one.dataset.seen && !(group(one) && seen.has(group(one))))
    .map((one) => `${one.closest('[id]')?.id} ${one.outerHTML.slice(0, 90)}`);
}"""
"""The elements that take part and were not marked as seen."""

STEP = """() => {
  const one = document.activeElement;
  if (!one || one === document.body || one.dataset.seen) return 'end';
  one.dataset.seen = 'yes';
  const outlined = (at) => {
    const style = at && getComputedStyle(at);
    return style && style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1;
  };
  if (outlined(one) || outlined(one.nextElementSibling)) return '';
  return `${one.closest('[id]')?.id} ${one.outerHTML.slice(0, 90)}`;
}"""
"""Marks what has the focus as seen; words if its focus cannot be seen, ``end`` after the last."""


@pytest.fixture(scope="module", params=list(PAGES))
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("report") / f"{request.param}.html"
    path.write_text(page_of(request.param), encoding="utf-8")
    return path.as_uri()


def found(view: Any, script: str) -> str:
    """What a script finds wrong, a line each, so that a failure can be read."""
    faults = view.evaluate(script)
    lines = faults if isinstance(faults, list) else [f"{k}: {v}" for k in faults for v in faults[k]]
    return "\n".join(lines)


@pytest.mark.parametrize("opened", SCREENS.values(), ids=SCREENS, indirect=True)
class TestEveryPage:
    pytestmark = browser_test

    def test_nothing_is_cut_overlaps_or_is_tiny(self, opened: Watched) -> None:
        opened.page.evaluate(OPEN)
        assert found(opened.page, LOOKS) == ""

    def test_every_text_stands_out_in_both_themes(self, opened: Watched) -> None:
        opened.page.evaluate(OPEN)
        for theme in ("light", "dark"):
            opened.page.evaluate(
                f"() => {{ document.documentElement.style.colorScheme = '{theme}'; }}"
            )
            assert found(opened.page, CONTRAST) == "", theme

    def test_the_keyboard_reaches_everything_and_shows_where_it_is(self, opened: Watched) -> None:
        view = opened.page
        view.evaluate(OPEN)
        unseen = []
        while (said := (view.keyboard.press("Tab"), view.evaluate(STEP))[1]) != "end":
            unseen += [said] if said else []
        assert "\n".join(unseen) == ""
        assert found(view, UNREACHED) == ""

    def test_arrow_keys_lead_through_a_drawing(self, opened: Watched) -> None:
        view = opened.page
        drawings = view.locator(".chart svg[tabindex]:visible")
        for at in range(min(drawings.count(), 3)):
            drawings.nth(at).focus()
            said = []
            for key in ("Home", "ArrowRight", "ArrowRight", "ArrowLeft", "End"):
                view.keyboard.press(key)
                assert view.locator("#hint").is_visible()
                said.append(view.locator("#hint").inner_text())
            assert said[1] == said[3]
            assert len({*said[:3], said[4]}) > 1
            view.keyboard.press("Escape")
            assert view.locator("#hint").is_hidden()

    def test_what_scrolls_fades_until_its_end_is_seen(self, opened: Watched) -> None:
        view = opened.page
        view.evaluate(OPEN)
        for frame in view.query_selector_all(".more-right")[:3]:
            frame.evaluate("one => { one.scrollLeft = one.scrollWidth; }")
            view.evaluate(OPEN)
            assert "more-right" not in (frame.get_attribute("class") or "").split()
            assert "more-left" in (frame.get_attribute("class") or "").split()
