"""The API and every form under fire: made-up requests get an answer that the schema knows, never a fault of ours."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import studio_api
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from studio_api import MODEL, House, question
from test_studio_doors import DOORS

from tutelage.feedback.work import BatchSpec

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
FIELDS = (
    "text",
    "key",
    "preference",
    "rank-1",
    "rank-2",
    "score",
    "seconds",
    "reason",
    "note",
    "name",
    "kind",
    "title",
)
FIELDS += ("state", "login", "password", "language", "next", "role", "number", "overlap", "deadline", "hourly_cost")
values = st.one_of(st.text(max_size=40), st.sampled_from(HOSTILE[:7]), st.integers().map(str), st.just("9" * 400))


@pytest.mark.parametrize("door", FORMS)
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(form=st.dictionaries(st.sampled_from(FIELDS), values, max_size=8))
def test_a_form_with_anything_in_it_is_answered_and_not_our_fault(
    house: House, door: str, form: dict[str, str]
) -> None:
    if door in ("POST /lead/backup", "POST /sign-out"):
        return
    admin = fuzzer(house)
    session = house.room.entrance.start(admin.user)
    batch = house.room.batches.all()[0].id
    held = house.room.desk.next(admin.user.id, batch)
    ids = {"batch": batch, "item": held.id if "id" in dir(held) else "none", "person": "none"}
    path = re.sub(r"\{(\w+)\}", lambda found: ids.get(found[1], "none"), door.split()[1])
    house.client.cookies.clear()
    house.client.cookies.set("tutelage_session", session)
    headers = {"origin": "http://studio.test", "x-csrf-token": house.room.csrf.token(session)}
    answer = house.client.post(
        path, data={k: v.encode("utf-8", "replace").decode() for k, v in form.items()}, headers=headers
    )
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    assert "Traceback" not in answer.text
    assert "onerror=alert(1)>" not in answer.text.replace("&lt;img src=x onerror=alert(1)&gt;", "")
    assert "<script>alert" not in answer.text


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
