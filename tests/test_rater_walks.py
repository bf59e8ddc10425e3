"""A real browser: every kind of work by keys alone, in both languages, wide and narrow; hostile output; no serious
finding of axe; pages as wide as the window."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from studio_api import House, served
from studio_pages import TEXTS, Browsing, chromium, house_in, needs_chromium, open_batch, speaking
from test_text import HOSTILE

pytestmark = needs_chromium
SIZES = {"wide": {"width": 1280, "height": 900}, "narrow": {"width": 320, "height": 640}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Callable[..., Any]]:
    with chromium() as contexts:
        yield contexts


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield from house_in(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="module")
def address(house: House) -> Iterator[str]:
    with served(house.app) as place:
        yield place


@pytest.fixture
def ann(browser: Callable[..., Any], address: str, house: House) -> Iterator[Browsing]:
    context = browser(viewport=SIZES["wide"])
    made = Browsing(context, address, house)
    yield made
    context.close()
    assert made.faults == []


def answered(ann: Browsing, house: House, keys: list[str]) -> str:
    """Answer the item on the screen with keys alone; its id."""
    before = ann.item()
    ann.press(*keys)
    ann.until_item_changes(before)
    ann.saved()
    return before


def test_a_comparison_by_keys(ann: Browsing, house: House) -> None:
    ann.goto(f"/work/{open_batch(house, 'comparison', 3)}")
    answered(ann, house, ["3", "Enter"])
    answered(ann, house, ["=", "Enter"])
    first, second = house.room.store.comparisons(annotator=ann.user.id)
    assert (first.ranks[first.shown[0]], first.ranks[first.shown[1]], first.strength) == (1, 2, 2)
    assert (second.ranks, second.strength) == ((1, 1), None)
    assert first.seconds is not None
    assert 0 < first.seconds < 60


def test_six_are_ranked_with_ties_by_keys(ann: Browsing, house: House) -> None:
    page = ann.goto(f"/work/{open_batch(house, 'ranking', 2)}")
    ann.press("Enter")
    assert page.inner_text(".problem") == "Place every answer first."
    ann.press("2", "5", "=", "1", "6", "Backspace", "6", "3", "4")  # 2 > 5 = 1 > 6 > 3 > 4
    page.focus("[data-chip='3']")  # the number 4
    ann.press("Alt+ArrowUp")  # into a tie with 3
    assert page.inner_text("[data-announce]") == "Answer 4: place 4, tied"
    ann.press("Alt+ArrowUp")  # before it
    assert page.evaluate("document.activeElement.dataset.chip") == "3"
    page.evaluate("document.activeElement.blur()")
    answered(ann, house, ["Enter"])
    (made,) = house.room.store.comparisons(annotator=ann.user.id)
    assert [made.ranks[i] for i in made.shown] == [2, 1, 5, 4, 2, 3]


def test_six_are_ranked_by_dragging(ann: Browsing, house: House) -> None:
    page = ann.goto(f"/work/{open_batch(house, 'ranking', 2)}")
    for place in range(6):
        page.click(f".unplaced [data-chip='{place}']")
    assert page.locator(".tier").count() == 6

    def drag(place: int, tier: int, share: float) -> None:
        chip, target = (
            page.locator(f"[data-chip='{place}']").bounding_box(),
            page.locator(".tier").nth(tier).bounding_box(),
        )
        page.mouse.move(chip["x"] + chip["width"] / 2, chip["y"] + chip["height"] / 2)
        page.mouse.down()
        at = target["x"] + share * target["width"], target["y"] + target["height"] / 2
        page.mouse.move(*at, steps=5)
        page.mouse.up()

    drag(5, 0, 0.5)  # the sixth ties with the first
    drag(4, 0, 0.05)  # the fifth comes before both
    page.evaluate("document.activeElement.blur()")
    answered(ann, house, ["Enter"])
    (made,) = house.room.store.comparisons(annotator=ann.user.id)
    assert [made.ranks[i] for i in made.shown] == [2, 3, 4, 5, 1, 2]


def test_a_rating_with_flags_by_keys(ann: Browsing, house: House) -> None:
    ann.goto(f"/work/{open_batch(house, 'rating', 2)}")
    answered(ann, house, ["6", "w", "Space", "Tab", "Tab", "Space", "Enter"])
    (made,) = house.room.store.ratings(annotator=ann.user.id)
    assert (made.score, made.flags) == (6, ("fails-task", "hallucination"))


def test_writing_and_editing_by_keys(ann: Browsing, house: House) -> None:
    page = ann.goto(f"/work/{open_batch(house, 'demonstration', 2)}")
    page.keyboard.type("Press s to skip? No: 1 and Enter are text here.")
    answered(ann, house, ["Control+Enter"])
    page = ann.goto(f"/work/{open_batch(house, 'edit', 2)}")
    ann.press("Control+Enter")
    assert page.inner_text(".problem") == "Nothing is changed yet. If nothing needs a change, skip it."
    ann.press("Control+End")
    page.keyboard.type(" Slowly.")
    answered(ann, house, ["Control+Enter"])
    written = [d.text for d in house.room.store.demonstrations(annotator=ann.user.id)]
    assert written == ["Press s to skip? No: 1 and Enter are text here.", f"{TEXTS[0]} Slowly."]


def test_a_blind_comparison_skip_flag_and_help_by_keys(ann: Browsing, house: House) -> None:
    page = ann.goto(f"/work/{open_batch(house, 'versus', 4)}")
    ann.press("?")
    assert page.is_visible("#keys")
    ann.press("Escape", "f")
    page.keyboard.type("A telephone number")
    ann.press("Control+Enter")
    ann.saved()
    before = ann.item()
    ann.press("s", "3", "Enter")
    ann.until_item_changes(before)
    ann.saved()
    answered(ann, house, ["3", "Enter"])
    (made,) = house.room.store.comparisons(annotator=ann.user.id)
    assert made.ranks[made.shown[1]] == 1


def test_keys_can_be_switched_off(ann: Browsing, house: House) -> None:
    page = ann.goto(f"/work/{open_batch(house, 'versus', 2)}")
    ann.press("?")
    page.uncheck("[data-keys-on]")
    ann.press("Escape", "1")
    assert page.locator(":checked[name=preference]").count() == 0


def test_a_chat_by_keys(ann: Browsing, house: House) -> None:
    speaking(house, ["I am ChatGPT. Boil it.", "Fry it.", "A day.", "An hour."])
    page = ann.goto(f"/chat/{open_batch(house, 'chat', 2)}")
    page.wait_for_selector("[name=preference]")
    assert "I am [name masked]. Boil it." in page.inner_text("#item")
    ann.press("1", "Enter")
    page.wait_for_selector("textarea[name=text]")
    page.keyboard.type("How long?")
    ann.press("Control+Enter")
    page.wait_for_selector("[name=preference]")
    assert page.locator(".turn").last.inner_text().endswith("How long?")
    ann.press("=", "Enter")
    page.wait_for_selector("textarea[name=text]")
    before = ann.item()
    ann.press("Escape", "e")
    ann.until_item_changes(before)
    one, two = house.room.store.comparisons(annotator=ann.user.id)
    assert (one.ranks, two.ranks) == ((1, 2), (1, 1))
    page.wait_for_selector("[name=preference]")


@pytest.mark.parametrize("language", ["en", "zh_CN"])
def test_no_serious_finding_in_any_page_at_any_width(ann: Browsing, house: House, language: str) -> None:
    speaking(house, ["Boil it.", "Fry it."])
    kinds = ("comparison", "ranking", "rating", "demonstration", "edit", "versus")
    places = {kind: f"/work/{open_batch(house, kind, 6)}" for kind in kinds}
    places |= {"chat": f"/chat/{open_batch(house, 'chat', 2)}", "home": "/", "recent": "/recent"}
    places |= {"nothing": f"/work/{open_batch(house, 'rating', 1, raters=('nobody',))}"}
    page = ann.goto("/")
    page.click(f"button[value={language}]")
    assert page.get_attribute("html", "lang") == ("en" if language == "en" else "zh-Hans")
    for name, place in places.items():
        ann.goto(place)
        if name == "chat":
            page.wait_for_selector("[name=preference]")
        for size, scheme in zip(SIZES.values(), ("light", "dark"), strict=True):
            page.set_viewport_size(size)
            page.emulate_media(color_scheme=scheme)
            assert ann.serious() == [], (name, size)
            assert ann.too_wide() == 0, (name, size)
    ann.goto(places["rating"])
    for key in ("?", "s", "f"):
        page.keyboard.press(key)
        assert ann.serious() == [], key
        page.keyboard.press("Escape")


@pytest.mark.parametrize("place", ["/sign-in", "/join"])
def test_no_serious_finding_before_signing_in(ann: Browsing, house: House, place: str) -> None:
    ann.context.clear_cookies()
    if place == "/join":
        chief = next(user for user in house.room.people.all() if user.role == "admin")
        place = f"/join/{house.room.people.invite(chief, 'rater')[1]}"
    ann.goto(place)
    for size in SIZES.values():
        ann.page.set_viewport_size(size)
        assert ann.serious() == []
        assert ann.too_wide() == 0


def test_hostile_output_does_nothing(ann: Browsing, house: House) -> None:
    corpus = [
        *HOSTILE.values(),
        "\u202eevil\u202c " * 20,
        "word " * 40_000,
        "x" * 30_000,
        "\u0300" * 3000,
        "[" * 50_000,
    ]
    places = []
    for start in range(0, len(corpus), 6):
        part = corpus[start : start + 6]
        places.append(f"/work/{open_batch(house, 'ranking', 1, texts=part)}")
    places.append(f"/work/{open_batch(house, 'edit', 1, texts=[''.join(HOSTILE.values())])}")
    for place in places:
        page = ann.goto(place)
        for link in page.locator(".answer a").all():
            assert link.get_attribute("rel") == "nofollow noopener noreferrer"
        for part in page.locator(".rest summary").all():
            part.click()
        assert ann.too_wide() == 0
        assert page.locator(".answer img, .answer script, .answer iframe, .answer form, .answer [style]").count() == 0
        assert page.locator("#status").count() == 1  # nobody else has its name
    assert page.locator(".rest").count() == 0
    page = ann.goto(places[4])
    box = page.locator(".rest pre").first
    box.evaluate("e => { e.closest('details').open = true }")
    assert box.evaluate("e => e.clientHeight < 500 && e.scrollHeight > 1000")
