"""What is typed is never lost: without a network, after a reload, in two tabs, signed out, against a refusal."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import select
from studio_api import House, served
from studio_pages import Browsing, chromium, house_in, needs_chromium, open_batch

from tutelage.feedback.assignment import Desk
from tutelage.feedback.database import read
from tutelage.feedback.work_tables import answers
from tutelage.studio.app import create_app

pytestmark = needs_chromium


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
    context = browser(viewport={"width": 1000, "height": 700})
    made = Browsing(context, address, house)
    yield made
    context.close()
    assert made.faults == []


def kept(ann: Browsing, beginning: str) -> int:
    """How many entries of this kind the browser keeps."""
    script = "beginning => Object.keys(localStorage).filter(name => name.includes(beginning)).length"
    return int(ann.page.evaluate(script, f":{beginning}"))


def fetched_ahead(ann: Browsing, count: int) -> None:
    """Wait until so many items are at hand at least, the one on the screen included."""
    script = """count => Object.entries(localStorage).some(([name, value]) =>
        name.includes(":open:") && JSON.parse(value).items.length >= count)"""
    ann.page.wait_for_function(script, arg=count)


def test_answers_given_without_a_network_are_stored_once_each(ann: Browsing, house: House) -> None:
    page = ann.goto(f"/work/{open_batch(house, 'comparison', 9)}")
    fetched_ahead(ann, 5)
    ann.context.set_offline(True)
    for key in ("1", "9", "5", "2"):
        before = ann.item()
        ann.press(key, "Enter")
        ann.until_item_changes(before)
    page.wait_for_selector("#status[data-state=kept]")
    shows(page, "4 kept on this device, will be sent")
    assert house.room.store.count("comparisons") == 0
    ann.press("4", "Enter")  # the last one at hand: there is no next, and the page says so
    page.wait_for_function("() => document.querySelector('.problem').textContent.startsWith('There is no network')")
    assert kept(ann, "out:") == 5
    before = ann.item()
    ann.context.set_offline(False)
    ann.until_item_changes(before)
    ann.saved()
    made = list(house.room.store.comparisons(annotator=ann.user.id))
    assert [c.strength for c in made] == [4, 4, None, 3, 1]
    assert len({c.prompt.id for c in made}) == 5
    assert kept(ann, "out:") == 0


def test_answers_wait_for_a_server_that_lost_its_replies(ann: Browsing, house: House) -> None:
    """The server stores, the reply is lost: the page sends again, with the same key, and it is one row."""
    page = ann.goto(f"/work/{open_batch(house, 'comparison', 3)}")
    lost = []

    def lose(route: Any) -> None:
        if route.request.method == "POST" and len(lost) < 3:
            lost.append(route.fetch().status)
            route.abort()
        else:
            route.continue_()

    page.route("**/item/*", lose)
    before = ann.item()
    ann.press("1", "Enter")
    ann.until_item_changes(before)
    ann.saved()
    assert lost == [200, 200, 200]
    assert len(list(house.room.store.comparisons(annotator=ann.user.id))) == 1


def test_a_page_closed_without_a_network_is_sent_from_the_next(ann: Browsing, house: House) -> None:
    ann.goto(f"/work/{open_batch(house, 'comparison', 3)}")
    fetched_ahead(ann, 3)
    ann.context.set_offline(True)
    before = ann.item()
    ann.press("1", "Enter")
    ann.until_item_changes(before)
    ann.page.close()
    ann.context.set_offline(False)
    ann.page = ann.tab()
    ann.goto("/")
    ann.saved()
    assert house.room.store.count("comparisons") >= 1
    assert len(list(house.room.store.comparisons(annotator=ann.user.id))) == 1


def test_an_answer_waits_for_signing_in_again(ann: Browsing, house: House, address: str) -> None:
    page = ann.goto(f"/work/{open_batch(house, 'comparison', 3)}")
    fetched_ahead(ann, 3)
    cookies = ann.context.cookies()
    house.room.entrance.end(cookies[0]["value"])
    before = ann.item()
    ann.press("1", "Enter")
    ann.until_item_changes(before)
    page.wait_for_selector("#status[data-state=sign-in] a")
    shows(page, "Sign in again to send 1 kept on this device")
    session = house.room.entrance.start(ann.user)
    ann.context.add_cookies([{"name": "tutelage_session", "value": session, "url": address}])
    ann.goto("/")
    ann.saved()
    assert len(list(house.room.store.comparisons(annotator=ann.user.id))) == 1


def test_a_refused_answer_is_kept_to_be_read(ann: Browsing, house: House) -> None:
    page = ann.goto(f"/work/{open_batch(house, 'demonstration', 3)}")
    page.evaluate("document.querySelector('[name=key]').value = 'x'.repeat(99)")  # a page of a version long gone
    page.keyboard.type("An hour of work")
    before = ann.item()
    ann.press("Control+Enter")
    ann.until_item_changes(before)
    page.click("#status[data-state=refused] a")
    page.wait_for_selector("#refused >> text=An hour of work")
    page.click("#refused button")
    assert not page.is_visible("#refused")
    assert kept(ann, "refused:") == 0


def test_a_draft_survives_a_reload_here_and_elsewhere(
    ann: Browsing, house: House, browser: Callable[..., Any], address: str
) -> None:
    batch = open_batch(house, "demonstration", 3)
    page = ann.goto(f"/work/{batch}")
    page.keyboard.type("Half a thought")
    page.wait_for_function("() => document.querySelector('[data-draft-state]').textContent === 'Draft saved'")
    page.keyboard.type(" and no more")
    page.reload()
    assert page.input_value("textarea[name=text]") == "Half a thought and no more"  # the browser has the newest
    other = browser()
    phone = Browsing(other, address, house, ann.user)
    phone.goto(f"/work/{batch}")
    assert phone.page.input_value("textarea[name=text]").startswith("Half a thought")  # the server has it too
    assert phone.item() == ann.item()
    other.close()


def test_two_tabs_show_two_items_and_both_are_stored(ann: Browsing, house: House) -> None:
    batch = open_batch(house, "comparison", 14)
    ann.goto(f"/work/{batch}")
    fetched_ahead(ann, 5)
    one = ann.page
    ann.page = ann.tab()
    ann.page.goto(f"{ann.address}/work/{batch}")
    fetched_ahead(ann, 5)
    ann.page.wait_for_function(
        "other => document.getElementById('item').dataset.item !== other",
        arg=one.get_attribute("#item", "data-item"),
    )
    two, seen = ann.page, set()
    for _ in range(3):
        for page in (one, two):
            ann.page = page
            page.bring_to_front()
            before = ann.item()
            seen.add(before)
            ann.press("1", "Enter")
            ann.until_item_changes(before)
            ann.saved()
    assert len(seen) == 6
    assert len(list(house.room.store.comparisons(annotator=ann.user.id))) == 6


def test_an_item_answered_in_another_tab_gives_way(ann: Browsing, house: House) -> None:
    batch = open_batch(house, "comparison", 6)
    ann.goto(f"/work/{batch}")
    fetched_ahead(ann, 5)
    one, item = ann.page, ann.item()
    ann.page = ann.tab()
    ann.page.goto(f"{ann.address}/work/{batch}/item/{item}")  # the very same, on purpose
    ann.press("1", "Enter")
    ann.page.wait_for_url("**/recent")
    one.wait_for_function("item => document.getElementById('item').dataset.item !== item", arg=item)
    assert "answered in another tab" in one.inner_text("#item .notice")


def test_undo_goes_back_and_the_change_is_a_revision(ann: Browsing, house: House) -> None:
    page = ann.goto(f"/work/{open_batch(house, 'comparison', 4)}")
    first = ann.item()
    ann.press("1", "Enter")
    ann.until_item_changes(first)
    second = ann.item()
    ann.saved()
    ann.press("3", "u")  # a beginning here, then back
    ann.until_item_changes(second)
    assert ann.item() == first
    assert page.input_value(":checked[name=preference]") == "-4"
    ann.saved()
    assert list(house.room.store.comparisons(annotator=ann.user.id)) == []  # it counts no longer, and is not lost:
    page.reload()
    assert ann.item() == first
    assert page.input_value(":checked[name=preference]") == "-4"
    assert page.inner_text("#item .notice") == "You took this answer back. It counts again when you save."
    ann.press("9", "Enter")
    ann.until_item_changes(first)
    ann.saved()
    assert ann.item() == second
    assert page.input_value(":checked[name=preference]") == "-2"  # as it was left
    (made,) = house.room.store.comparisons(annotator=ann.user.id)
    assert made.ranks[made.shown[1]] == 1
    assert house.room.desk.recent(ann.user.id)[0].revision == 2


@dataclass
class Afternoon:
    """The time of a browser and of the studio, which passes when it is told to."""

    ann: Browsing
    now: float

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        self.ann.page.clock.run_for(1000 * seconds)

    def answer(self, seconds: float) -> None:
        """Answer the item on the screen after so many seconds."""
        before = self.ann.item()
        self.pass_by(seconds / 2)
        self.ann.press("Shift")  # a sign of life
        self.pass_by(seconds / 2 - 1)
        self.ann.press("1", "Enter")
        self.ann.until_item_changes(before)
        self.pass_by(1)


def test_ten_minutes_without_a_network(ann: Browsing, house: House) -> None:
    """A rater of 40 seconds an item has work for ten minutes at hand, answers it all and loses and doubles nothing."""
    afternoon, room = Afternoon(ann, time.time()), house.room
    house.app.state.room = replace(room, desk=Desk(room.store, clock=lambda: afternoon.now))
    ann.page.clock.install(time=afternoon.now)
    page = ann.goto(f"/work/{open_batch(house, 'comparison', 100)}")
    page.clock.pause_at(afternoon.now + 600)
    afternoon.now += 600
    fetched_ahead(ann, 21)  # nothing is known of the rater's pace yet
    for _ in range(3):
        afternoon.answer(40)
    ann.saved()
    fetched_ahead(ann, 16)
    ann.context.set_offline(True)
    for n in range(14):
        afternoon.answer(80 if n == 9 else 40)  # a cup of tea
    shows(page, "14 kept on this device, will be sent")
    assert len(list(room.store.comparisons(annotator=ann.user.id))) == 3
    ann.context.set_offline(False)
    ann.saved()
    house.app.state.room = room
    made = list(room.store.comparisons(annotator=ann.user.id))
    assert len(made) == len({c.prompt.id for c in made}) == 17
    assert [round(c.seconds or 0) for c in made[1:]] == [40] * 11 + [60] + [40] * 4
    with read(room.store.engine) as connection:
        mine = select(answers.c.role).where(answers.c.rater_id == ann.user.id)
        assert connection.scalars(mine).all() == ["wanted"] * 17  # no lease ended meanwhile


def test_a_reload_without_the_studio(browser: Callable[..., Any], house: House) -> None:
    """The page comes from the browser, as it was left, and what is answered on it is stored when the studio is back."""
    batch, url = open_batch(house, "comparison", 30), str(house.room.store.engine.url.database)
    context = browser()
    with served(create_app(url)) as address:
        ann = Browsing(context, address, house)
        page = ann.goto(f"/work/{batch}")
        fetched_ahead(ann, 10)
        answered_now(ann)
        ann.saved()
        second = ann.item()
        ann.press("7")
        page.wait_for_function(
            """async item => { const page = await caches.match(location.pathname);
            return page && (await page.text()).includes(item) && !!navigator.serviceWorker.controller; }""",
            arg=second,
        )
        page.wait_for_timeout(300)
    page.reload()
    assert ann.item() == second
    assert page.input_value(":checked[name=preference]") == "2"  # as it was left
    for _ in range(4):
        answered_now(ann)
    page.reload()  # at once: the page that the browser kept is older than these answers
    shows(page, "4 kept on this device, will be sent")
    answered_now(ann)
    shows(page, "5 kept on this device, will be sent")
    with served(create_app(url), int(address.rpartition(":")[2])):
        ann.saved()
    made = list(house.room.store.comparisons(annotator=ann.user.id))
    assert len(made) == len({c.prompt.id for c in made}) == 6
    context.close()
    assert ann.faults == []


def test_a_changed_guideline_needs_no_network(browser: Callable[..., Any], house: House) -> None:
    """An item brings the guideline it was given with: shown in its place, also on a page that the browser kept."""
    batch, url = open_batch(house, "comparison", 9), str(house.room.store.engine.url.database)
    changed = house.room.batches.add_guideline("Kitchen", "Prefer what is **short**.").id
    context = browser()
    with served(create_app(url)) as address:
        ann = Browsing(context, address, house)
        page = ann.goto(f"/work/{batch}")
        fetched_ahead(ann, 5)
        house.room.batches.change(batch, guideline=changed)
        answered_now(ann)
        fetched_ahead(ann, 5)  # the last of them under the new guideline
        ann.saved()
        page.wait_for_function(
            """async () => { const page = await caches.match(location.pathname);
            return page && (await page.text()).includes("<strong>short") && !!navigator.serviceWorker.controller; }"""
        )
    page.evaluate("window.stayed = true")
    for _ in range(4):
        assert "Prefer what is true." in page.inner_text("#guideline")
        answered_now(ann)
    assert "Prefer what is short." in page.inner_text("#guideline")
    last = ann.item()
    ann.press("u")
    ann.until_item_changes(last)
    assert "Prefer what is true." in page.inner_text("#guideline")
    answered_now(ann)
    assert page.evaluate("window.stayed")
    page.wait_for_timeout(300)
    page.reload()
    assert ann.item() == last
    assert "Prefer what is short." in page.inner_text("#guideline")
    assert page.evaluate("document.querySelectorAll('#guideline').length") == 1
    with served(create_app(url), int(address.rpartition(":")[2])):
        answered_now(ann)
        ann.saved()
    made = list(house.room.store.comparisons(annotator=ann.user.id))
    assert len(made) == 6
    assert sum(c.guideline == changed for c in made) == 1
    context.close()
    assert ann.faults == []


def shows(page: Any, status: str) -> None:
    """The status says so, soon: it is written after the next item is shown."""
    for _ in range(50):
        if (said := page.inner_text("#status")) == status:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{said!r}, not {status!r}")


def answered_now(ann: Browsing) -> None:
    before = ann.item()
    ann.press("1", "Enter")
    ann.until_item_changes(before)


def test_a_correction_from_the_list_of_ones_own(ann: Browsing, house: House) -> None:
    page = ann.goto(f"/work/{open_batch(house, 'rating', 3)}")
    before = ann.item()
    ann.press("2", "Enter")
    ann.until_item_changes(before)
    ann.saved()
    ann.goto("/recent")
    page.click("text=Correct")
    page.wait_for_selector("input[name=score]:checked")
    ann.press("7", "Enter")
    page.wait_for_url("**/recent")
    assert [r.score for r in house.room.store.ratings(annotator=ann.user.id)] == [7]


def test_idle_time_does_not_count(ann: Browsing, house: House) -> None:
    batch = open_batch(house, "comparison", 2)
    ann.page.clock.install(time=time.time())
    page = ann.goto(f"/work/{batch}")
    page.clock.run_for(10_000)
    page.keyboard.press("1")  # ten seconds of reading
    page.clock.run_for(600_000)  # coffee
    page.keyboard.press("2")
    page.clock.run_for(5_000)
    body = []
    page.on("request", lambda r: r.method == "POST" and "/item/" in r.url and body.append(r.post_data))
    before = ann.item()
    page.keyboard.press("Enter")
    ann.until_item_changes(before)
    answers = [b for b in body if "seconds=" in b and "preference" in b]
    seconds = float(answers[0].split("seconds=")[1].split("&")[0])
    assert seconds == pytest.approx(10 + 30 + 5, abs=2)
