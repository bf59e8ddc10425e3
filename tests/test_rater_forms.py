"""The raters' pages without scripts: plain forms, and what is stored of them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from studio_api import House
from studio_pages import KINDS, SECRET, TEXTS, Visitor, house_in, open_batch

from tutelage.feedback.database import read
from tutelage.feedback.work_tables import remarks
from tutelage.records import Comparison


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    yield from house_in(tmp_path)


def comparisons(house: House) -> list[Comparison]:
    return list(house.room.store.comparisons())


@pytest.mark.parametrize("language", ["en", "zh_CN"])
def test_every_kind_is_shown_without_the_models_name(house: House, language: str) -> None:
    ann = Visitor(house)
    token = house.room.csrf.token(ann.client.cookies["tutelage_session"])
    ann.client.post("/language", data={"language": language, "csrf": token})
    pages = [ann.get("/")]
    for kind in KINDS:
        batch = open_batch(house, kind)
        pages += [ann.get(f"/work/{batch}"), ann.client.get(f"/work/{batch}/ahead").text]
    pages.append(ann.get("/recent"))
    text = "".join(pages)
    assert SECRET not in text
    assert "How do I pickle chillies" in text
    assert ("保存" in text) == (language == "zh_CN")
    assert "style=" not in text  # the policy forbids it
    assert not re.search(r"<script(?! (?:type=\"module\" )?src=\"/static/[0-9a-f]{12}/)", text)


@pytest.mark.parametrize(
    ("preference", "left_is_better", "strength"), [(-4, True, 4), (-1, True, 1), (3, False, 3)], ids=str
)
def test_a_comparison_has_side_and_strength(house: House, preference: int, left_is_better: bool, strength: int) -> None:
    ann, batch = Visitor(house), open_batch(house, "comparison", 1)
    page = ann.get(f"/work/{batch}")
    left = page.index(">A</h2>") < page.index("vinegar") < page.index(">B</h2>")  # the vinegar stands on the left
    after = ann.send(page, preference=preference, seconds="3.5")
    assert "Every item here has its answers" in after
    (made,) = comparisons(house)
    vinegar_is_better = left == left_is_better
    assert made.ranks == ((1, 2) if vinegar_is_better else (2, 1))
    assert [c.text for c in made.completions] == list(TEXTS[:2])
    assert made.strength == strength
    assert made.annotator.id == ann.user.id
    assert made.guideline is not None


def test_a_tie_has_no_strength_and_versus_neither(house: House) -> None:
    ann = Visitor(house)
    ann.send(ann.get(f"/work/{open_batch(house, 'comparison', 1)}"), preference=0)
    ann.send(ann.get(f"/work/{open_batch(house, 'versus', 1)}"), preference=1)
    tie, versus = comparisons(house)
    assert (tie.ranks, tie.strength) == ((1, 1), None)
    assert (versus.ranks[versus.shown[1]], versus.strength) == (1, None)


def test_a_ranking_with_ties_and_gaps(house: House) -> None:
    ann, batch = Visitor(house), open_batch(house, "ranking", 1)
    given = (4, 1, 1, 6, 9, 2)
    page = ann.get(f"/work/{batch}")
    ann.send(page, expect=422, **{f"rank-{i}": r for i, r in enumerate(given, 1)})  # nine of six
    ann.send(page, expect=422, **{f"rank-{i}": 1 for i in range(1, 6)})  # one is missing
    given = (4, 1, 1, 6, 6, 2)
    ann.send(page, **{f"rank-{i}": r for i, r in enumerate(given, 1)})
    (made,) = comparisons(house)
    assert [made.ranks[i] for i in made.shown] == [3, 1, 1, 4, 4, 2]


def test_a_rating_with_flags(house: House) -> None:
    ann, batch = Visitor(house), open_batch(house, "rating", 2)
    ann.send(ann.get(f"/work/{batch}"), score=2, flags=["hallucination", "opinion", "made-up-flag"])
    ann.send(ann.get(f"/work/{batch}"), expect=422, score=8)
    (made,) = house.room.store.ratings()
    assert (made.score, made.flags) == (2, ("hallucination", "opinion"))


def test_a_demonstration_keeps_its_lines(house: House) -> None:
    ann, batch = Visitor(house), open_batch(house, "demonstration", 2)
    ann.send(ann.get(f"/work/{batch}"), text="Boil it.\r\nThen wait. <b>")
    ann.send(ann.get(f"/work/{batch}"), expect=422, text=" \r\n ")
    ann.send(ann.get(f"/work/{batch}"), expect=422, text="x" * 200_001)
    (made,) = house.room.store.demonstrations()
    assert made.text == "Boil it.\nThen wait. <b>"


def test_an_edit_is_a_demonstration_and_a_comparison(house: House) -> None:
    ann, batch = Visitor(house), open_batch(house, "edit", 1)
    page = ann.get(f"/work/{batch}")
    ann.send(page, expect=422, text=TEXTS[0])  # nothing changed
    ann.send(page, text="Boil the vinegar, **slowly**.")
    (written,), (pair,) = house.room.store.demonstrations(), comparisons(house)
    assert written.text == "Boil the vinegar, **slowly**."
    assert [c.text for c in pair.completions] == [written.text, TEXTS[0]]
    assert pair.ranks == (1, 2)


def test_a_masked_name_is_not_written_into_a_demonstration(house: House) -> None:
    ann, batch = Visitor(house), open_batch(house, "edit", 1, texts=["I am ChatGPT. Boil it."])
    page = ann.get(f"/work/{batch}")
    assert "ChatGPT" not in page
    assert page.count("I am [name masked]. Boil it.") == 3  # shown, to edit, and to start over from
    ann.send(page, expect=422, text="I am [name masked]. Boil it slowly.")
    ann.send(page, text="Boil it slowly.")
    assert [d.text for d in house.room.store.demonstrations()] == ["Boil it slowly."]


def test_the_same_form_five_times_is_one_row_and_a_change_a_revision(house: House) -> None:
    ann, batch = Visitor(house), open_batch(house, "comparison", 1)
    page = ann.get(f"/work/{batch}")
    for _ in range(5):
        ann.send(page, preference=-2)
    assert len(comparisons(house)) == 1
    listed = ann.get("/recent")
    assert "A is better (2)" in listed
    again = ann.get(re.search(r'href="(/work/[^"]+/item/[^"]+)"', listed)[1])  # type: ignore[index]
    assert re.search(r'value="-2" required checked', again)
    assert "A is better (2)" not in ann.send(again, preference=4)
    (made,) = comparisons(house)
    assert made.strength == 4
    assert house.room.desk.recent(ann.user.id)[0].revision == 2


def test_skip_and_flag_reach_the_leads(house: House) -> None:
    ann, batch = Visitor(house), open_batch(house, "comparison", 2)
    first = ann.get(f"/work/{batch}")
    ann.send(first, action="/flag", text="The prompt holds a telephone number")
    ann.send(first, expect=422, action="/flag", text=" ")
    ann.send(first, expect=422, action="/skip", reason="boring")
    second = ann.send(first, action="/skip", reason="knowledge", note="chemistry")
    items = [re.search(r'data-item="(\w+)"', page)[1] for page in (first, second)]  # type: ignore[index]
    assert items[0] != items[1]
    with read(house.room.store.engine) as connection:
        said = connection.execute(select(remarks.c.kind, remarks.c.text).order_by(remarks.c.n)).all()
    assert said == [("flag", "The prompt holds a telephone number"), ("skip", "knowledge: chemistry")]


def test_a_draft_comes_back_with_the_item(house: House) -> None:
    ann, batch = Visitor(house), open_batch(house, "demonstration", 2)
    page = ann.get(f"/work/{batch}")
    ann.send(page, action="/draft", body='{"fields": [["text", "half a thou"]], "seconds": 3, "at": 5}')
    ann.send(page, expect=422, action="/draft", body="")
    assert "half a thou" in ann.get(f"/work/{batch}")
    ann.send(page, text="A whole thought.")
    assert "half a thou" not in ann.get(f"/work/{batch}")


def test_nobody_sees_or_answers_what_was_given_to_somebody_else(house: House) -> None:
    ann, bob, batch = Visitor(house), Visitor(house), open_batch(house, "comparison", 2)
    page = ann.get(f"/work/{batch}")
    bob.send(page, expect=403, preference=1)  # ann's token
    own = bob.get(f"/work/{batch}")
    items = [re.search(r'data-item="(\w+)"', p)[1] for p in (page, own)]  # type: ignore[index]
    assert items[0] != items[1]
    bob.send(own.replace(items[1], items[0]), expect=404, preference=1)
    assert comparisons(house) == []


def test_why_there_is_nothing(house: House) -> None:
    ann, bob = Visitor(house), Visitor(house)
    assert "No work is open for you" in ann.get("/")
    batch = open_batch(house, "comparison", 1)
    page = ann.get(f"/work/{batch}")
    assert re.search(r"Others hold what is left\..* in 1[45] minutes", bob.get(f"/work/{batch}"))
    ann.send(page, preference=0)
    assert "Every item here has its answers" in bob.get(f"/work/{batch}")
    house.room.batches.set_state(batch, "paused")
    assert "The leads have paused" in ann.get(f"/work/{batch}")


def test_scripts_and_styles_are_kept_by_browsers_at_an_address_that_names_them(house: House) -> None:
    page = Visitor(house).get("/")
    places = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', page))
    assert {place.rsplit("/", 1)[1] for place in places} >= {"base.css", "everywhere.js", "icon.svg"}
    for place in places:
        answer = house.client.get(place)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert "set-cookie" not in answer.headers
    assert house.client.get("/static/base.css").status_code == 404  # no address without a version can go stale
