"""The leads' pages in a real browser: both languages, wide and at 320 px, no serious finding of axe; keys alone."""

import pytest
from studio_api import enrol, served
from studio_pages import Browsing, chromium, house_in, needs_chromium
from test_oversight import FIRST, SECOND, say

from tutelage.feedback.oversight import Oversight

pytestmark = needs_chromium
PAGES = [
    "",
    "/samples",
    "/batches",
    "/batches/new",
    "/quality",
    "/disagreements",
    "/people",
    "/guidelines",
    "/trail",
    "/export",
]
WIDER = "[...document.querySelectorAll('.card')].filter(card => card.scrollWidth > card.clientWidth + 1).length"
SIZES = {1280: 900, 1160: 900, 1100: 900, 320: 640}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    yield from house_in(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="module")
def divided(house):
    """A batch on which two raters disagree, with something of everything: its id and the item."""
    batch = house.batch(items=4, overlap=2, overlap_share=1.0, most_answers=2)
    for who, verdict in ((house.person().user.id, FIRST), (house.person().user.id, SECOND)):
        for _ in range(4):
            say(house, who, batch, verdict, 10.0)
    rater = house.person().user.id
    held = house.room.desk.next(rater, house.batch(items=2))
    house.room.desk.flag(rater, held.id, "Both are about something else.")
    lead = house.person("lead").user
    house.room.batches.add_guideline("Films", "# Honest\n\n- and *short*", lead.id)
    house.room.people.invite(lead, "rater", note="Kim")
    return batch, Oversight(house.room.store).splits(batch)[0].item


@pytest.fixture(scope="module")
def chief(house, divided):
    with chromium() as contexts, served(house.app) as address:
        context = contexts(viewport={"width": 1280, "height": 900})
        made = Browsing(context, address, house, enrol(house.room.store, "admin", may_export=True, name="Ada"))
        yield made
        context.close()
        assert made.faults == []


@pytest.mark.parametrize("language", ["en", "zh_CN"])
def test_every_page_in_every_language_and_width(house, divided, chief, language):
    batch, item = divided
    chief.goto("/lead").click(f"button[value={language}]")
    chief.page.wait_for_selector(f"html[lang={'en' if language == 'en' else 'zh-Hans'}]")
    for path in [*PAGES, f"/batches/{batch}", f"/disagreements/{item}"]:
        chief.goto(f"/lead{path}").evaluate(
            "document.querySelectorAll('details:not([open])').forEach(details => { details.open = true; })"
        )
        assert not chief.page.query_selector("[style]"), path
        for width, height in SIZES.items():
            chief.page.set_viewport_size({"width": width, "height": height})
            assert chief.too_wide() <= 0, (path, width)
            assert chief.page.evaluate(WIDER) == 0, (path, width)
        assert chief.serious() == [], path  # at 320


def test_deciding_by_keys(house, divided, chief):
    _, item = divided
    chief.page.set_viewport_size({"width": 1280, "height": 900})
    page = chief.goto(f"/lead/disagreements/{item}")
    page.focus("#rank-0")
    chief.press("ArrowDown", "ArrowDown")
    page.focus("#rank-1")
    chief.press("ArrowDown")
    page.focus("main form button.primary")
    chief.press("Enter")
    page.wait_for_selector(".side .pill")
    assert [c.ranks for c in house.room.store.comparisons(annotator=chief.user.id)] == [(2, 1)]


def test_the_figures_are_drawn(house, divided, chief):
    chief.page.set_viewport_size({"width": 1280, "height": 900})
    page = chief.goto("/lead/quality")
    dot, axis = page.locator("svg.whisker .dot").first, page.locator("svg.whisker .axis").first
    box, line = dot.bounding_box(), axis.bounding_box()
    assert line["x"] - 6 <= box["x"] <= line["x"] + line["width"]
    assert box["width"] == pytest.approx(9, abs=1)
    fill = page.evaluate("getComputedStyle(document.querySelector('.whisker .dot')).fill")
    assert fill not in ("rgb(0, 0, 0)", "none")  # the style sheet's colour, not an SVG's own
