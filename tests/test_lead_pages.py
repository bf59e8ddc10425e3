"""The leads' pages: forms make what they say, figures stand beside their numbers, nothing leaks to raters."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from studio_api import MODEL, House, question
from studio_api import house as made_house
from test_oversight import FIRST, SECOND, disagreement, say

from tutelage.evaluate.statistics import wilson
from tutelage.feedback import rows
from tutelage.feedback.audit import entries
from tutelage.feedback.oversight import Oversight
from tutelage.feedback.work import Written
from tutelage.questions import Question, write_questions
from tutelage.records import Completion, Source
from tutelage.studio import figures
from tutelage.studio.lead_view import calendar, snippet

NEW = {
    "name": "Films",
    "kind": "comparison",
    "count": "5",
    "overlap": "3",
    "overlap_share": "50",
    "most_answers": "5",
    "who": "everybody",
}


class Browser:
    """A signed-in browser of one person, without scripts."""

    def __init__(self, house: House, role: str, **rights) -> None:
        self.house = house
        self.user = house.person(role, **rights).user
        self.session = house.room.entrance.start(self.user)

    def _send(self, method: str, path: str, **options):
        self.house.client.cookies.clear()
        self.house.client.cookies.set("tutelage_session", self.session)
        return self.house.client.request(method, path, **options)

    def get(self, path: str, status: int = 200) -> str:
        answer = self._send("GET", path)
        assert answer.status_code == status, answer.text
        return answer.text

    def post(self, path: str, data: dict, status: int = 303):
        headers = {"origin": "http://studio.test"}
        data = {"csrf": self.house.room.csrf.token(self.session)} | data
        answer = self._send("POST", path, data=data, headers=headers)
        assert answer.status_code == status, answer.text
        return answer


@pytest.fixture
def house(tmp_path):
    yield from made_house(tmp_path)


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


@pytest.mark.parametrize("page", PAGES)
def test_every_page_stands_on_an_empty_store(house, page):
    html = Browser(house, "admin").get(f"/lead{page}")
    assert "<h1>" in html
    assert not re.search(r"\sstyle=|\son[a-z]+=|<script(?![^>]*src=)", html)  # the content security policy forbids them


def in_project(house, tmp_path):
    """Give the house's project two sampling runs on the same prompts."""
    from dataclasses import replace

    from tutelage.project import Project
    from tutelage.runs import Run
    from tutelage.stage import Settings

    project = Project.init(tmp_path / "films", model="tiny")
    ids = []
    for model in ("old", "new"):
        run = Run.start(project.folder.runs, "sample", Settings(), parents=[])
        texts = [question(i).prompt for i in range(8)]
        write_questions(
            run.path,
            [
                Question(
                    prompt=p,
                    completions=tuple(
                        Completion(text=f"{model} {j}", source=Source(model=model, sampling={"temperature": 0.7}))
                        for j in range(3)
                    ),
                )
                for p in texts
            ],
        )
        run.finish("done")
        ids.append(run.id)
    house.app.state.room = house.room = replace(house.room, project=project.folder)
    return ids


def test_a_batch_is_opened_paused_changed_and_closed(house, tmp_path):
    old, new = in_project(house, tmp_path)
    lead = Browser(house, "lead")
    form = lead.get("/lead/batches/new")
    assert "temperature 0.7" in form
    assert f'value="{old}"' in form
    place = lead.post("/lead/batches/new", NEW | {"run": old, "deadline": "2031-05-01T12:30"}).headers["location"]
    batch = house.room.batches.find(place.rsplit("/", 1)[1])
    assert (batch.spec.name, batch.spec.kind, batch.spec.overlap_share) == ("Films", "comparison", 0.5)
    assert batch.spec.deadline.isoformat() == "2031-05-01T12:30:00+00:00"
    assert (batch.author, house.room.batches.progress(batch.id).items) == (lead.user.id, 5)
    for state in ("paused", "open", "closed"):
        lead.post(f"{place}/state", {"state": state})
        assert house.room.batches.find(batch.id).state == state
        assert f'<span class="pill {state}">' in lead.get(place)
    changed = {
        "name": "Films, longer",
        "most_answers": "7",
        "gold_share": "10",
        "repeat_share": "0",
        "raters": lead.user.id,
    }
    lead.post(f"{place}/change", changed)
    spec = house.room.batches.find(batch.id).spec
    assert (spec.name, spec.most_answers, spec.gold_share, spec.repeat_share) == ("Films, longer", 7, 0.1, 0.0)
    assert (spec.deadline, spec.raters) == (None, (lead.user.id,))
    assert (
        "most_answers 2 is less than overlap 3"
        in lead.post(f"{place}/change", changed | {"most_answers": "2"}, 422).text
    )
    place = lead.post("/lead/batches/new", NEW | {"kind": "versus", "run": old, "other": new}).headers["location"]
    rater = house.person().user.id
    assert {t.split()[0] for t in house.room.desk.next(rater, place.rsplit("/", 1)[1]).texts} == {"old", "new"}
    for k, texts in {"": ["old 0", "old 1", "old 2"], "2": ["old 0", "old 1"]}.items():  # three were sampled
        place = lead.post("/lead/batches/new", NEW | {"kind": "ranking", "run": old, "k": k}).headers["location"]
        assert sorted(house.room.desk.next(rater, place.rsplit("/", 1)[1]).texts) == texts


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"run": ""}, "Choose a sampling run"),
        ({"run": "sample-none"}, "sample-none"),
        ({"count": "0"}, "expected 1 to 100,000"),
        ({"kind": "ranking", "k": "1"}, "A ranking is of 2 to 9 answers, not of &#39;1&#39;"),
        ({"overlap_share": "many"}, "overlap_share is &#39;many&#39;, expected a number"),
        ({"overlap_share": "250"}, "overlap_share: Input should be less than or equal to 1"),
        ({"deadline": "soon"}, "expected a date and a time"),
        ({"kind": "versus", "other": ""}, "Choose a sampling run"),
        ({"kind": "nonsense"}, "kind: Input should be"),
        ({"name": " "}, "name: Field required"),
        ({"onboarding": "x" * 32}, "There is no batch"),
        ({"who": "ticked"}, "Tick those who may answer, or let everybody answer"),
    ],
)
def test_a_wrong_form_is_shown_again_with_what_is_wrong(house, tmp_path, wrong, told):
    old, _ = in_project(house, tmp_path)
    lead = Browser(house, "lead")
    html = lead.post("/lead/batches/new", NEW | {"run": old, "guideline": "", "lease_minutes": "17"} | wrong, 422).text
    assert told in html
    assert 'value="17"' in html  # nothing typed is lost
    assert house.room.batches.all() == []


class Fields(HTMLParser):
    """What a browser would send of the form that leads somewhere, as it was served: lists by the fields' names."""

    def __init__(self, html: str, action: str) -> None:
        super().__init__()
        self.sent: dict[str, list[str]] = {}
        self._action, self._here, self._select = action, False, ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "form":
            self._here = given.get("action") == self._action
        elif tag == "select":
            self._select = given["name"]
        elif self._here and (
            (tag == "input" and (given.get("type") not in ("radio", "checkbox") or "checked" in given))
            or (tag == "option" and "selected" in given)
        ):
            self.sent.setdefault(given.get("name") or self._select, []).append(given["value"])


def changed_as_served(lead, batch, **fields):
    """Save a batch's settings with these fields changed and all others as the page has them."""
    place = f"/lead/batches/{batch}/change"
    lead.post(place, Fields(lead.get(f"/lead/batches/{batch}"), place).sent | fields)
    return lead.house.room.batches.find(batch).spec


def test_saving_the_settings_lets_nobody_in_and_nobody_out(house):
    """Somebody who may not sign in now has no tick on a list of active people: that once meant everybody."""
    lead, chief = Browser(house, "lead"), next(u for u in house.room.people.all() if u.role == "admin")
    ann, bob = (house.person().user for _ in range(2))
    alone, both = house.batch(raters=(ann.id,)), house.batch(raters=(ann.id, "imported"))
    house.room.people.change(chief, ann.id, active=False)
    assert changed_as_served(lead, alone, name="Films, again").raters == (ann.id,)
    assert changed_as_served(lead, both, name="Films, again").raters == (ann.id, "imported")
    assert "may not sign in" in lead.get(f"/lead/batches/{alone}")
    assert house.room.desk.next(bob.id, alone).reason == "nothing"
    page = lead.post(f"/lead/batches/{alone}/change", NEW | {"who": "ticked"}, 422).text
    assert "Tick those who may answer" in page
    assert changed_as_served(lead, alone, raters=[bob.id]).raters == (bob.id,)
    assert changed_as_served(lead, alone, who="everybody").raters is None
    assert changed_as_served(lead, alone, name="Films").raters is None
    assert house.room.batches.find(alone).spec.name == "Films"


@pytest.mark.parametrize("moment", ["2031-05-01T14:30:00+02:00", "2031-05-01T23:59:30-08:00"])
def test_saving_the_settings_moves_no_deadline(house, moment):
    lead, batch = Browser(house, "lead"), house.batch(deadline=moment)
    assert changed_as_served(lead, batch, name="Films, again").deadline == datetime.fromisoformat(moment)
    shown = datetime.fromisoformat(moment).astimezone(UTC)
    assert shown.strftime("%Y-%m-%d %H:%M") in lead.get("/lead/batches")


def test_an_edit_that_was_flagged_can_be_looked_at(house):
    lead, rater = Browser(house, "lead"), house.person().user.id
    batch = house.batch(items=1, k=1, kind="edit")
    held = house.room.desk.next(rater, batch)
    house.room.desk.flag(rater, held.id, "It was wrong.")
    say(house, rater, batch, Written(text="Right <b>now</b>."))
    page = lead.get(f"/lead/disagreements/{held.id}")
    assert "Right &lt;b&gt;now&lt;/b&gt;." in page
    assert '<button class="primary">Decide' not in page
    _, item, _ = disagreement(house)
    assert '<button class="primary">Decide' in lead.get(f"/lead/disagreements/{item}")


@pytest.mark.parametrize("remark", ["1", str(2**31), str(2**70), "x"])
def test_there_is_no_such_remark(house, remark):
    assert "There is no remark" in Browser(house, "lead").post(f"/lead/remarks/{remark}", {}, 404).text


def test_gold_comes_from_somebody_who_knows_and_a_test_is_all_gold(house, tmp_path):
    old, _ = in_project(house, tmp_path)
    _, _, (expert, _) = disagreement(house)
    lead = Browser(house, "lead")
    place = lead.post("/lead/batches/new", NEW | {"run": old, "gold": expert}).headers["location"]
    rater = house.person().user.id
    asked = Oversight(house.room.store)
    assert house.room.batches.progress(place.rsplit("/", 1)[1]).items == 5  # gold is no item to finish
    place = lead.post("/lead/batches/new", NEW | {"gold": expert, "pass_mark": "80"}).headers["location"]
    spec = house.room.batches.find(place.rsplit("/", 1)[1]).spec
    assert spec.pass_mark == 0.8
    say(house, rater, place.rsplit("/", 1)[1], FIRST)
    assert asked.work(place.rsplit("/", 1)[1])[rater].gold == [1.0]


def test_a_disagreement_is_discussed_and_decided(house):
    batch, item, _ = disagreement(house)
    lead = Browser(house, "lead")
    assert item in lead.get(f"/lead/disagreements?batch={batch}")
    page = lead.get(f"/lead/disagreements/{item}")
    assert page.count("place 1") >= 2
    assert MODEL in page  # leads may know
    lead.post(f"/lead/disagreements/{item}/comment", {"text": "<b>both</b> are long"})
    lead.post(f"/lead/disagreements/{item}", {"rank-0": "3", "rank-1": "1"}, 422)  # there are two places
    lead.post(f"/lead/disagreements/{item}", {"rank-0": "1"}, 422)
    lead.post(f"/lead/disagreements/{item}", {"rank-0": "2", "rank-1": "1"})
    assert [c.ranks for c in house.room.store.comparisons(annotator=lead.user.id)] == [(2, 1)]
    page = lead.get(f"/lead/disagreements/{item}")
    assert "&lt;b&gt;both&lt;/b&gt; are long" in page
    assert "decided: place 2" in page
    assert "0 to decide" in lead.get("/lead/disagreements")


def test_quality_shows_numbers_beside_figures(house):
    a, b = (house.person().user.id for _ in range(2))
    batch = house.batch(items=12, overlap=2, overlap_share=1.0, most_answers=2)
    for n in range(12):
        say(house, a, batch, FIRST, 5.0)
        say(house, b, batch, FIRST if n % 4 else SECOND, 5.0)
    lead = Browser(house, "lead")
    for page in ("/lead/quality", f"/lead/quality?batch={batch}"):
        html = lead.get(page)
        assert re.search(r"<span>75% \[4\d, 9\d\] n 12</span>", html)
        assert html.count('<svg class="whisker') > 8
        assert "72.6 ± 1.5" in html
    lead.get("/lead/quality?batch=none", 404)


def test_the_quality_of_a_batch_reads_no_other_labels(house, monkeypatch):
    rater, batch = house.person().user.id, house.batch(items=3)
    saved = [say(house, rater, batch, FIRST, 5.0) for _ in range(3)]
    others = house.batch(items=20)
    for _ in range(20):
        say(house, rater, others, SECOND, 5.0)
    read = []
    real = rows.build_comparisons
    monkeypatch.setattr(rows, "build_comparisons", lambda c, page: (read.extend(r.id for r in page), real(c, page))[1])
    Browser(house, "lead").get(f"/lead/quality?batch={batch}")
    assert read == [label for one in saved for label in one.labels]
    house.room.store.retract(read[0])
    assert house.room.store.numbers_of("comparisons", read) == [2, 3]


def test_invitations_roles_and_cost(house):
    lead, admin, rater = Browser(house, "lead"), Browser(house, "admin"), house.person().user
    page = lead.post("/lead/people/invite", {"role": "rater", "note": "Kim"}, 200).text
    token = re.search(r'value="http://studio.test/join/([^"]+)"', page)[1]
    assert house.room.people.invited(token).note == "Kim"
    assert token not in lead.get("/lead/people")  # told this once
    lead.post("/lead/people/invite", {"role": "admin"}, 403)
    lead.post("/lead/people/invite", {"role": "rater", "may_export": "1"}, 403)
    invitation = house.room.people.invitations()[0].id
    lead.post(f"/lead/people/invitations/{invitation}", {})
    assert house.room.people.invitations()[0].revoked
    lead.post(f"/lead/people/{rater.id}", {"active": "1", "hourly_cost": "21.5"})
    assert house.room.people.find(rater.id).hourly_cost == 21.5
    lead.post(f"/lead/people/{rater.id}", {"active": "1", "hourly_cost": "free"}, 422)
    lead.post(f"/lead/people/{rater.id}", {"active": "1", "hourly_cost": "21.5", "role": "admin", "may_export": "1"})
    assert house.room.people.find(rater.id).role == "rater"  # not a lead's to give
    admin.post(f"/lead/people/{rater.id}", {"active": "1", "hourly_cost": "", "role": "lead", "may_export": "1"})
    after = house.room.people.find(rater.id)
    assert (after.role, after.may_export, after.hourly_cost, after.active) == ("lead", True, None, True)
    admin.post(f"/lead/people/{rater.id}", {"role": "lead"})
    assert not house.room.people.find(rater.id).active
    admin.post(f"/lead/people/{rater.id}/erase", {"sure": "somebody else"}, 422)
    assert (
        "Erased. 0 labels"
        in admin.post(f"/lead/people/{rater.id}/erase", {"sure": after.name, "keep_labels": "1"}, 200).text
    )
    assert house.room.people.find(rater.id).login is None


def test_guidelines_grow_by_versions(house):
    lead = Browser(house, "lead")
    for text in ("Be *honest*.", "Be honest and **brief**.\r\n\r\n<script>alert(1)</script>"):
        place = lead.post("/lead/guidelines", {"title": "Reviews", "text": text}).headers["location"]
    html = lead.get(place)
    assert "<strong>brief</strong>" in html
    assert "<script>alert" not in html
    assert [g.version for g in house.room.batches.guidelines()] == [2, 1]


def test_the_trail_and_exports(house):
    lead, exporter = Browser(house, "lead"), Browser(house, "admin", may_export=True)
    assert "You may not export" in lead.get("/lead/export")
    page = exporter.get("/lead/export")
    assert 'action="/api/export"' in page
    exporter.get("/api/export?format=preference&file=lines&split=train")
    assert [e.detail["file"] for e in entries(house.room.store, actions=["export"])] == ["lines"]
    assert "preference" in lead.get("/lead/trail?action=export")
    assert "preference" not in lead.get(f"/lead/trail?person={lead.user.id}")
    answer = exporter.post("/lead/backup", {}, 200)
    assert answer.content.startswith(b"SQLite format 3\x00")
    assert "backup" in {e.action for e in entries(house.room.store)}


def test_raters_see_no_page_of_leads_and_no_model(house):
    batch, item, _ = disagreement(house)
    rater = Browser(house, "rater")
    for page in [*PAGES, f"/batches/{batch}", f"/disagreements/{item}"]:
        assert MODEL not in rater.get(f"/lead{page}", 403)


class Attributes(HTMLParser):
    """Every attribute of every tag."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def drawn(svg):
    found = Attributes()
    found.feed(str(svg))
    return found.tags


def test_a_whisker_is_where_its_numbers_are():
    tags = drawn(figures.whisker(0.2, 0.3, 0.6, middle=0.5))
    interval = next(a for t, a in tags if a.get("class") == "interval")
    assert (interval["x1"], interval["x2"]) == ("20.00%", "60.00%")
    assert next(a for t, a in tags if t == "circle")["cx"] == "30.00%"
    assert next(a for t, a in tags if a.get("class") == "middle")["x1"] == "50.00%"
    assert tags[0][1]["class"] == "whisker"
    assert drawn(figures.whisker(0.51, 0.6, 0.7, middle=0.5))[0][1]["class"] == "whisker off"
    assert not any("style" in a for _, a in tags)


def test_bars_columns_and_steps():
    bar = [a for t, a in drawn(figures.bar([("answered", 3), ("held", 1)], 8, "3 of 8")) if t == "rect"]
    assert [(a.get("x"), a["width"]) for a in bar[1:]] == [("0.00%", "37.50%"), ("37.50%", "12.50%")]
    assert drawn(figures.bar([("answered", 0)], 0, 'a "quoted" one'))[0][1]["aria-label"] == 'a "quoted" one'
    heights = [a["height"] for t, a in drawn(figures.columns({"a": 2, "b": 4, "<c>": 0}, "x")) if t == "rect"]
    assert heights == ["50.00%", "100.00%", "0.00%"]
    steps = drawn(figures.steps([("one", wilson(1, 4)), ("two", wilson(3, 4))], "x"))
    assert [a["cy"] for t, a in steps if t == "circle"] == ["75.00%", "25.00%"]


def test_days_without_answers_are_days_too():
    found = calendar({"2026-02-27": 3, "2026-03-02": 1})
    assert list(found.items())[-4:] == [("2026-02-27", 3), ("2026-02-28", 0), ("2026-03-01", 0), ("2026-03-02", 1)]
    assert (len(found), min(found), sum(found.values())) == (14, "2026-02-17", 4)  # one busy day is no block
    assert calendar({}) == {}
    assert min(calendar({"2025-01-01": 1, "2026-01-31": 2})) == "2026-01-02"


def test_a_snippet_is_one_tame_line():
    assert snippet("a\n\nb  c") == "a b c"
    assert len(snippet("x" * 500)) == 141
    assert "\u202e" not in snippet("a\u202eb")
