"""The API and every form under fire: made-up requests get an answer that the schema knows, never a fault of ours."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import studio_api
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from studio_api import MODEL, House, question
from test_studio_doors import DOORS

from tutelage import studio
from tutelage.feedback.oversight import Oversight
from tutelage.feedback.work import BatchSpec, Held
from tutelage.studio.lead_batches import NEW, NUMBERS, SHARES
from tutelage.studio.sampling import Wanted

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis: it comes with tutelage[dev]")
CONFORMANCE = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "[here](javascript:alert(1))",
    "![x](https://tracker.test/pixel.png)",
    "\u202egnp.exe",
    "</textarea><svg onload=alert(1)>",
    "{{ 7 * 7 }} {% raw %}",
    "x" * 200_000,
)
QUIET = settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield from studio_api.house(tmp_path_factory.mktemp("fuzz"), api_rate=1e6)


API = sorted(door for door in DOORS if "/api/" in door and door != "GET /api/openapi.json")


@pytest.fixture(scope="module")
def schema(house: House) -> Any:
    return schemathesis.openapi.from_asgi("/api/openapi.json", house.app)


@pytest.mark.parametrize("door", API)
def test_made_up_requests_get_an_answer_of_the_schema(house: House, schema: Any, door: str) -> None:
    """Status, media type and body of every answer are those that /api/openapi.json promises; 5xx is never one."""
    from schemathesis.specs.openapi import checks as conformance

    method, path = door.split()
    token = {"authorization": f"Bearer {fuzzer(house).token}"}

    @QUIET
    @given(case=schema[path][method].as_strategy())
    def call(case: Any) -> None:
        answer = case.call(headers=token)
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        case.validate_response(answer, checks=[getattr(conformance, name) for name in CONFORMANCE])

    call()


FUZZERS: dict[int, studio_api.Caller] = {}


def fuzzer(house: House) -> studio_api.Caller:
    """An administrator of this house who does nothing else."""
    if id(house) not in FUZZERS:
        FUZZERS[id(house)] = house.person("admin", may_export=True)
        house.batch(5)
    return FUZZERS[id(house)]


FORMS = sorted(door for door in DOORS if door.startswith("POST ") and not door.startswith("POST /api/"))
STUDIO = Path(studio.__file__).parent
NAMED = r'name="([\w-]+)"', r'(?:fields|given)(?:\.get\(|\[)"([\w-]+)"'  # in templates, and where code reads a form
READ = "\n".join(path.read_text() for path in (*STUDIO.glob("*.py"), *STUDIO.glob("templates/**/*.html")))
FIELDS = {name for pattern in NAMED for name in re.findall(pattern, READ)} - {"csrf", "viewport"}
FIELDS |= {*NEW, *NUMBERS, *SHARES, *Wanted.model_fields, "other", *(f"rank-{i}" for i in range(10))}
LIKELY = (
    "comparison",
    "chat",
    "open",
    "closed",
    "rater",
    "admin",
    "en",
    "zh_CN",
    "knowledge",
    "3",
    "0.5",
    "2031-05-01T12:30",
)
values = st.one_of(
    st.text(max_size=40), st.sampled_from(HOSTILE[:7] + LIKELY), st.integers().map(str), st.just("9" * 5000)
)
forms = st.fixed_dictionaries({}, optional=dict.fromkeys(sorted(FIELDS), values))  # about half of all fields, each time


@pytest.mark.parametrize("door", FORMS)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(form=forms)
def test_a_form_with_anything_in_it_is_answered_and_not_our_fault(
    house: House, door: str, form: dict[str, str]
) -> None:
    if door in ("POST /lead/backup", "POST /sign-out"):
        return
    answer = sent(house, door, {k: v.encode("utf-8", "replace").decode() for k, v in form.items()})
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    assert "Traceback" not in answer.text
    assert "onerror=alert(1)>" not in answer.text.replace("&lt;img src=x onerror=alert(1)&gt;", "")
    assert "<script>alert" not in answer.text


def test_the_fuzz_reaches_the_code_of_every_form(house: House) -> None:
    """An empty form is refused by the form, not by its address."""
    statuses = {door: sent(house, door, {}).status_code for door in FORMS if door != "POST /sign-in"}
    assert {door: status for door, status in statuses.items() if status in (401, 403, 404, 405)} == {}


def sent(house: House, door: str, form: dict[str, str]) -> Any:
    """The answer to a form that an administrator sends."""
    path, session = place(house, door), house.room.entrance.start(fuzzer(house).user)
    house.client.cookies.clear()
    house.client.cookies.set("tutelage_session", session)
    headers = {"origin": "http://studio.test", "x-csrf-token": house.room.csrf.token(session)}
    return house.client.post(path, data=form, headers=headers)


def place(house: House, door: str) -> str:
    """The door's address, with things of this house in its gaps: a form's code is reached and not only its door."""
    admin, room = fuzzer(house).user, house.room
    kind = {"kind": "chat", "k": 0} if " /chat/" in door else {}
    held = room.desk.next(admin.id, house.batch(2, **kind))
    assert isinstance(held, Held)
    ids = {"batch": held.batch, "item": held.id}
    if "{person}" in door:
        ids["person"] = house.person().user.id
    if "{invitation}" in door:
        ids["invitation"] = room.people.invite(admin, "rater")[0].id
    if door.endswith("/join/{token}"):
        ids["token"] = room.people.invite(admin, "rater")[1]
    elif "{token}" in door:
        ids["token"] = room.entrance.issue_token(admin, "t", ["label"])[0].id
    if "{remark}" in door:
        room.desk.flag(admin.id, held.id, "Look at this")
        ids["remark"] = str(Oversight(room.store).remarks()[-1].n)
    return re.sub(r"\{(\w+)\}", lambda found: ids[found[1]], door.split()[1])


def test_every_field_of_every_form_is_fuzzed(house: House) -> None:
    """As pages show them to an administrator: what a form has and where it goes is known to the test above."""
    session = house.room.entrance.start(fuzzer(house).user)
    house.client.cookies.clear()
    house.client.cookies.set("tutelage_session", session)
    shown, gone_to = set(), set()
    for door in DOORS:
        if door.startswith("GET /") and not door.startswith(("GET /api/", "GET /sign-in", "GET /join/")):
            page = house.client.get(place(house, door)).text
            for form in re.findall(r'<form [^>]*method="post".*?</form>', page, re.DOTALL):
                shown |= set(re.findall(r'<(?:input|select|textarea|button)[^>]*\sname="([^"]+)"', form))
                gone_to |= set(re.findall(r'<form [^>]*action="([^"]+)"', form))
    assert len(shown) > 40
    assert shown - FIELDS - {"csrf"} == set()
    known = [re.compile(re.sub(r"\{\w+\}", r"[^/]+", door.split()[1])) for door in DOORS if door.startswith("POST")]
    assert [place for place in gone_to if not any(pattern.fullmatch(place) for pattern in known)] == []


def test_hostile_output_is_text_in_the_api_and_inert_in_pages(house: House) -> None:
    """What a model wrote comes as JSON, never as HTML, and no page that shows it has a tag or an address of its."""
    rater = house.person()
    items = [question(i, text=f"{text} {{place}}") for i, text in enumerate(HOSTILE)]
    batch = house.room.batches.open(BatchSpec(name="h", kind="comparison", repeat_share=0, gold_share=0), items).id
    session = house.room.entrance.start(rater.user)
    for _ in HOSTILE:
        given = rater("POST", "/work/next", json={"batch": batch})
        item = given.json()["item"]
        assert given.headers["content-type"] == "application/json"
        assert MODEL not in given.text
        house.client.cookies.clear()
        house.client.cookies.set("tutelage_session", session)
        page = house.client.get(f"/work/{batch}")
        assert page.status_code == 200
        for bad in (
            "<img",
            "<script>alert",
            "<svg onload",
            'href="javascript:',
            "\u202e",
            ">49",
        ):
            assert bad not in page.text, bad
        body = {"key": item["id"], "answer": {"type": "ranked", "ranks": [1, 2]}}
        assert rater("POST", f"/work/items/{item['id']}/answer", json=body).status_code == 200
    assert rater("POST", "/work/next", json={"batch": batch}).json()["item"] is None
