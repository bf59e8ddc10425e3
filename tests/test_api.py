"""The API: what each route does, what each scope opens, and how it says no."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import studio_api
from studio_api import MODEL, SCOPES, House, better_first, issue, labels_by_answer, question, served

from tutelage.errors import StudioError
from tutelage.feedback.audit import entries
from tutelage.feedback.people_tables import api_tokens
from tutelage.feedback.work import BatchSpec, Held, NewItem, Ranked
from tutelage.records import Comparison, Completion, Prompt, Source
from tutelage.studio.client import Studio
from tutelage.studio.masking import MASK
from tutelage.studio.pace import Pace


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    yield from studio_api.house(tmp_path)


@contextmanager
def client(house: House, caller: studio_api.Caller) -> Iterator[Studio]:
    """The client of a caller, over a real connection."""
    with served(house.app) as url, Studio(url, caller.token, sleep=lambda _: None) as studio:
        yield studio


# ---- a rater's work


def test_an_item_its_answer_and_the_label_it_is(house: House) -> None:
    batch, rater = house.batch(1), house.person()
    given = rater("POST", "/work/next", json={"batch": batch}).json()
    item = given["item"]
    assert given["nothing"] is None
    assert item["messages"] == [{"role": "user", "content": "Question 0?"}]
    assert sorted(item["texts"]) == ["Answer 0 to 0", "Answer 1 to 0"]
    assert MODEL not in json.dumps(given)
    body = {"key": "k" * 32, "answer": {"type": "ranked", "ranks": [2, 1], "strength": 3}, "seconds": 0.0}
    first = rater("POST", f"/work/items/{item['id']}/answer", json=body)
    assert (first.status_code, first.json()["revision"], first.json()["again"]) == (200, 1, False)
    for _ in range(4):
        assert rater("POST", f"/work/items/{item['id']}/answer", json=body).json() == {**first.json(), "again": True}
    [label] = house.room.store.comparisons()
    assert labels_by_answer(house.room.store) == {first.json()["id"]: [label.id]}
    assert [label.completions[i].text for i in label.shown] == item["texts"]
    best = label.completions[label.ranks.index(1)].text
    assert (best, label.strength, label.annotator.id) == (item["texts"][1], 3, rater.user.id)
    assert rater("POST", "/work/next", json={}).json()["nothing"]["reason"] in ("finished", "done", "nothing")


def test_what_a_rater_is_told_does_not_say_which_items_are_checks(house: House) -> None:
    items = [question(i) for i in range(3)]
    gold = [question(100 + i).model_copy(update={"gold": Ranked(ranks=(1, 2))}) for i in range(3)]
    spec = BatchSpec(name="b", kind="comparison", overlap=1, gold_share=0.5, repeat_share=0)
    batch = house.room.batches.open(spec, items + gold).id
    rater, told = house.person(), {}
    while item := rater("POST", "/work/next", json={}).json()["item"]:
        body = {"key": item["id"], "answer": {"type": "ranked", "ranks": [1, 2]}}
        told[item["id"]] = rater("POST", f"/work/items/{item['id']}/answer", json=body).json()
    became = labels_by_answer(house.room.store)
    assert {len(became[one["id"]]) for one in told.values()} == {0, 1}  # gold was among them
    for item, one in told.items():
        known = {"item": item, "batch": batch, "revision": 1, "role": "wanted", "again": False}
        assert one == {"id": one["id"], **known}


def test_drafts_skips_flags_undo_and_recent(house: House) -> None:
    house.batch(3)
    rater = house.person()
    item = rater("POST", "/work/next", json={}).json()["item"]["id"]
    assert rater("PUT", f"/work/items/{item}/draft", json={"body": '{"a":1}'}).status_code == 204
    assert rater("GET", f"/work/items/{item}").json()["draft"] == '{"a":1}'
    assert rater("POST", f"/work/items/{item}/renew").json() > time.time()
    assert rater("POST", f"/work/items/{item}/flag", json={"text": "odd"}).status_code == 204
    assert rater("POST", f"/work/items/{item}/skip", json={"text": "unclear"}).status_code == 204
    other = rater("POST", "/work/next", json={}).json()["item"]["id"]
    assert other != item
    body = {"key": "k" * 32, "answer": {"type": "ranked", "ranks": [1, 1]}}
    assert rater("POST", f"/work/items/{other}/answer", json=body).status_code == 200
    assert [one["item"] for one in rater("GET", "/work/recent").json()] == [other]
    assert rater("GET", "/work").json()[0]["answered"] == 1
    assert rater("POST", "/work/undo", json={}).json()["item"]["id"] == other
    assert house.room.store.count("comparisons") == 0
    assert rater("GET", "/work/recent").json() == []


def test_nobody_reaches_another_raters_item(house: House) -> None:
    house.batch(2)
    rater, other = house.person(), house.person("lead")
    item = rater("POST", "/work/next", json={}).json()["item"]["id"]
    body = {"key": "k" * 32, "answer": {"type": "ranked", "ranks": [1, 2]}}
    for answer in (
        other("GET", f"/work/items/{item}"),
        other("POST", f"/work/items/{item}/answer", json=body),
        other("PUT", f"/work/items/{item}/draft", json={"body": "x"}),
        other("POST", f"/work/items/{item}/renew"),
    ):
        assert answer.status_code == 404
    assert house.room.store.count("comparisons") == 0


def test_a_name_that_a_model_gives_itself_does_not_reach_the_rater(house: House) -> None:
    said = [question(0, text="I am ChatGPT, number {place}."), question(1, text="As Qwen2.5 I say {place}.")]
    house.room.batches.open(BatchSpec(name="n", kind="comparison"), said)
    rater = house.person()
    for _ in range(2):
        item = rater("POST", "/work/next", json={}).json()["item"]
        assert "ChatGPT" not in str(item)
        assert "Qwen" not in str(item)
        body = {"key": item["id"], "answer": {"type": "ranked", "ranks": [1, 2]}}
        assert rater("POST", f"/work/items/{item['id']}/answer", json=body).status_code == 200
    assert "ChatGPT" not in rater("GET", "/work/recent").text
    assert any("ChatGPT" in c.completions[0].text for c in house.room.store.comparisons())  # masked, not changed


def test_an_edit_passes_no_door_that_the_page_keeps_shut(house: House) -> None:
    for text in ("Boil it.", "I am ChatGPT: boil it.", "Boil\u200e it."):
        item = NewItem(
            prompt=Prompt.user(f"How, {len(text)}?"), completions=(Completion(text=text, source=Source(model=MODEL)),)
        )
        house.room.batches.open(BatchSpec(name="n", kind="edit", gold_share=0.0, repeat_share=0.0), [item])
    rater = house.person()
    for n in range(3):
        item = rater("POST", "/work/next", json={}).json()["item"]
        (shown,) = item["texts"]
        for m, (text, told) in enumerate(
            [
                (" \n", "Write an answer first."),
                (shown, "Nothing is changed yet."),
                (f"{MASK}, and more", "Replace or remove"),
            ]
        ):
            body = {"key": f"key-{n}-{m}-refused", "answer": {"type": "written", "text": text}}
            refused = rater("POST", f"/work/items/{item['id']}/answer", json=body)
            assert refused.status_code == 422, text
            assert told in refused.json()["detail"]
        assert house.room.store.count("comparisons") == n
        body = {"key": f"key-{n}-taken", "answer": {"type": "written", "text": "Simmer it."}}
        assert rater("POST", f"/work/items/{item['id']}/answer", json=body).status_code == 200
    assert house.room.store.count("comparisons") == 3


# ---- who may


def test_a_scope_opens_its_routes_and_no_other(house: House) -> None:
    doors = {"label": "/work", "lead": "/batches", "export": "/export"}
    for scope in SCOPES:
        caller = house.person("admin", may_export=True, scopes=[scope])
        assert caller("GET", "/me").json()["scopes"] == [scope]
        for needed, path in doors.items():
            answer = caller("GET", path)
            assert answer.status_code == (200 if needed == scope else 403), (scope, path)
            if answer.status_code == 403:
                assert answer.json()["detail"] == f"This needs the scope '{needed}'; here are {scope}"


def test_a_token_does_no_more_than_its_user_may_now(house: House) -> None:
    lead = house.person("lead", may_export=True)
    assert lead("GET", "/me").json()["scopes"] == ["export", "label", "lead"]
    chief = next(u for u in house.room.people.all() if u.name == "Chief")
    house.room.people.change(chief, lead.user.id, role="rater", may_export=False)
    assert lead("GET", "/me").json()["scopes"] == ["label"]
    assert lead("GET", "/batches").status_code == 403
    house.room.people.change(chief, lead.user.id, active=False)
    assert lead("GET", "/me").status_code == 401


def test_an_administrators_small_token_is_small(house: House) -> None:
    admin, rater = house.person("admin", may_export=True, scopes=["label"]), house.person()
    assert admin("PATCH", f"/people/{rater.user.id}", json={"role": "lead"}).status_code == 403
    assert admin("POST", "/tokens", json={"name": "x", "scopes": ["lead"]}).status_code == 403
    token = rater("GET", "/tokens").json()[0]["id"]
    assert admin("DELETE", f"/tokens/{token}").status_code == 404
    assert rater("GET", "/me").status_code == 200
    leading = house.person("admin", scopes=["lead"])
    assert leading("POST", "/invitations", json={"role": "admin"}).status_code == 403
    assert leading("POST", "/invitations", json={"may_export": True}).status_code == 403
    assert leading("POST", "/invitations", json={}).status_code == 201


def test_tokens_are_told_once_hashed_revoked_and_end(house: House) -> None:
    rater = house.person()
    made = rater("POST", "/tokens", json={"name": "robot", "scopes": ["label"], "days": 2}).json()
    secret = made["secret"]
    assert secret not in rater("GET", "/tokens").text
    with house.room.store.engine.connect() as connection:
        rows = str(connection.execute(api_tokens.select()).all())
    assert secret not in rows
    robot = studio_api.Caller(house.client, rater.user, secret)
    assert robot("GET", "/me").status_code == 200
    assert robot("DELETE", f"/tokens/{made['token']['id']}").status_code == 204
    assert robot("GET", "/me").status_code == 401
    old = issue(house.room.store, rater.user, expires=time.time() - 1)
    assert studio_api.Caller(house.client, rater.user, old)("GET", "/me").status_code == 401


def test_a_session_is_a_caller_too_and_needs_the_pages_token(house: House) -> None:
    lead = house.person("lead")
    session = house.room.entrance.start(lead.user)
    house.client.cookies.set("tutelage_session", session)
    assert house.client.get("/api/me").json()["scopes"] == ["label", "lead"]
    body = {"prompts": [Prompt.user("x").model_dump()]}
    own = {"origin": "http://studio.test"}
    assert house.client.post("/api/prompts", json=body, headers=own).status_code == 403
    assert house.client.post("/api/prompts", json=body, headers={"x-csrf-token": "0" * 64} | own).status_code == 403
    csrf = {"x-csrf-token": house.room.csrf.token(session)}
    foreign = csrf | {"origin": "https://evil.test"}
    assert house.client.post("/api/prompts", json=body, headers=foreign).status_code == 403
    assert house.client.post("/api/prompts", json=body, headers=csrf | own).json() == {"added": 1, "known": 0}
    # a wrong token is not mended by a good session
    wrong = {"authorization": "Bearer nonsense"}
    assert house.client.get("/api/me", headers=wrong).status_code == 401
    assert house.client.get("/api/me", headers={"authorization": "Basic eDp5"}).status_code == 401


def test_the_page_of_tokens_makes_one_and_takes_it_back(house: House) -> None:
    lead = house.person("lead")
    session = house.room.entrance.start(lead.user)
    house.client.cookies.set("tutelage_session", session)
    headers = {"origin": "http://studio.test", "x-csrf-token": house.room.csrf.token(session)}
    page = house.client.get("/tokens").text
    assert 'value="lead"' in page
    assert 'value="admin"' not in page
    assert house.client.post("/tokens", data={"name": "x"}, headers=headers).status_code == 422
    stolen = {"name": "x", "scopes": "admin", "days": "7"}
    assert house.client.post("/tokens", data=stolen, headers=headers).status_code == 403
    made = house.client.post("/tokens", data={"name": "bot", "scopes": ["label", "lead"], "days": "7"}, headers=headers)
    secret = made.text.split('id="secret" value="')[1].split('"')[0]
    house.client.cookies.clear()
    bot = studio_api.Caller(house.client, lead.user, secret)
    assert bot("GET", "/me").json()["scopes"] == ["label", "lead"]
    [token] = [one["id"] for one in bot("GET", "/tokens").json() if one["name"] == "bot"]
    house.client.cookies.set("tutelage_session", session)
    assert "days left" in house.client.get("/tokens").text
    assert secret not in house.client.get("/tokens").text
    assert house.client.post(f"/tokens/{token}", headers=headers).status_code == 303
    house.client.cookies.clear()
    assert bot("GET", "/me").status_code == 401


# ---- how it says no


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "where"),
    [
        ("GET", "/batches/none", None, 404, None),
        ("GET", "/nowhere", None, 404, None),
        ("DELETE", "/me", None, 405, None),
        ("POST", "/batches", {"spec": {"name": "x", "kind": "nonsense"}, "items": []}, 422, "body.spec.kind"),
        ("POST", "/prompts", {"prompts": [{"messages": []}]}, 422, "body.prompts.0.messages"),
        ("POST", "/prompts", {"prompts": [], "more": 1}, 422, "body.prompts"),
        ("GET", "/audit?limit=0", None, 422, "query.limit"),
        ("POST", "/work/items/none/skip", {"text": "x"}, 404, None),
        ("POST", "/webhooks", {"url": "https://127.0.0.1/"}, 422, None),
        ("POST", "/webhooks", {"url": "https://example.org/\u0001"}, 422, None),
        ("GET", "/quality", None, 409, None),
        ("GET", "/export?format=csv", None, 422, "query.format"),
    ],
)
def test_every_error_has_one_shape(
    house: House, method: str, path: str, body: Any, status: int, where: str | None
) -> None:
    answer = house.person("admin", may_export=True)(method, path, json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    said = answer.json()
    assert set(said) == {"title", "status", "detail", "instance", "faults"}
    assert (said["status"], said["instance"]) == (status, f"/api{path.split('?')[0]}")
    assert len(said["detail"]) > 5
    if where is not None:
        assert where in [fault["where"] for fault in said["faults"]]


def test_who_asks_too_fast_waits(tmp_path: Path) -> None:
    made = House(tmp_path, api_rate=0.001)  # one at once, the next a quarter of an hour later, however slow this is
    rater = made.person()
    first, late = rater("GET", "/me"), rater("GET", "/me")
    assert (first.status_code, late.status_code) == (200, 429)
    assert 500 < int(late.headers["retry-after"]) <= 1000
    assert made.person()("GET", "/me").status_code == 200  # somebody else is not held up
    made.room.store.close()


def test_pace_lets_through_its_rate_and_forgets_who_is_quiet() -> None:
    now, let = 0.0, 0
    pace = Pace(10, 5, clock=lambda: now)
    waits = []
    for tick in range(1000):  # ten seconds
        now = tick / 100
        try:
            pace.take("ann")
            let += 1
        except StudioError as error:
            waits.append((error.status, error.retry_after or 0))
    assert {status for status, _ in waits} == {429}
    assert all(0 < wait <= 0.1 for _, wait in waits)
    assert 100 <= let <= 106


# ---- leading


def test_batches_guidelines_people_and_their_trail(house: House) -> None:
    lead = house.person("lead")
    guideline = lead("POST", "/guidelines", json={"title": "How", "text": "Be *kind*."}).json()
    spec = {"name": "films", "kind": "comparison", "guideline": guideline["id"], "gold_share": 0, "repeat_share": 0}
    items = [question(i).model_dump(mode="json") for i in range(2)]
    batch = lead("POST", "/batches", json={"spec": spec, "items": items}).json()
    assert lead("GET", f"/batches/{batch['id']}").json() == batch
    assert [b["id"] for b in lead("GET", "/batches").json()] == [batch["id"]]
    assert lead("GET", f"/batches/{batch['id']}/progress").json()["items"] == 2
    assert lead("PATCH", f"/batches/{batch['id']}", json={"name": "more films"}).json()["spec"]["name"] == "more films"
    assert lead("PATCH", f"/batches/{batch['id']}", json={"kind": "rating"}).status_code == 422
    assert lead("PATCH", f"/batches/{batch['id']}", json={"gold_share": 2}).status_code == 422
    rater = house.person()
    held = rater("POST", "/work/next", json={}).json()["item"]
    assert rater("GET", f"/guidelines/{held['guideline']}").json()["text"] == "Be *kind*."
    assert lead("PUT", f"/batches/{batch['id']}/state", json={"state": "paused"}).json()["state"] == "paused"
    assert lead("POST", "/invitations", json={"note": "Ann"}).status_code == 201
    assert lead("GET", "/invitations").json()[0]["note"] == "Ann"
    assert {p["id"] for p in lead("GET", "/people").json()} >= {rater.user.id, lead.user.id}
    assert lead("PATCH", f"/people/{rater.user.id}", json={"hourly_cost": 20}).json()["hourly_cost"] == 20
    assert rater("PATCH", f"/people/{rater.user.id}", json={"name": "Ann"}).json()["name"] == "Ann"
    assert rater("PATCH", f"/people/{lead.user.id}", json={"name": "Ann"}).status_code == 403
    actions = [line["action"] for line in lead("GET", "/audit").json()]
    assert {"open-batch", "add-guideline", "invite", "change-user", "batch-paused"} <= set(actions)


@pytest.mark.parametrize("name", ["by", "batch", "self", "colour"])
def test_a_batch_has_the_fields_of_its_spec_and_no_other(house: House, name: str) -> None:
    answer = house.person("lead")("PATCH", f"/batches/{house.batch()}", json={name: "x"})
    assert answer.status_code == 422
    assert f"A batch has no {name}: its fields are name, kind" in answer.json()["detail"]


def test_a_webhook_is_stored_beside_the_event_loop(house: House) -> None:
    """A write waits for its turn; on the loop every other request would wait with it."""
    add, loops = house.room.outbox.add, []

    def watched(*given: Any) -> Any:
        loops.append(asyncio._get_running_loop())
        return add(*given)

    house.room.outbox.add = watched  # type: ignore[method-assign]
    made = house.person("lead")("POST", "/webhooks", json={"url": "https://8.8.8.8/hook"})
    assert (made.status_code, loops) == (201, [None])


def test_quality_is_json_with_intervals(house: House) -> None:
    house.batch(4, overlap=2, overlap_share=1.0, most_answers=2)
    for rater in (house.person(), house.person()):
        with client(house, rater) as studio:
            while item := studio.next():
                studio.submit(item, better_first(item.texts))
    quality = house.person("lead")("GET", "/quality").json()
    agreement = quality["agreement"]
    assert (quality["prompts"], len(quality["raters"])) == (4, 2)
    assert agreement["n"] > 0
    assert agreement["low"] < 1.0


# ---- exporting


def test_an_export_is_a_permission_of_its_own_and_on_the_record(house: House) -> None:
    house.room.store.add(*(Prompt.user(f"q{i}") for i in range(30)))
    assert house.person("admin")("GET", "/export").status_code == 403
    exporter = house.person("rater", may_export=True)
    answer = exporter("GET", "/export?format=prompt-only&split=train")
    told = [json.loads(line)["prompt"][0]["content"] for line in answer.text.splitlines()]
    assert told == [prompt.messages[0].content for prompt in house.room.store.prompts("train")]
    assert 0 < len(told) < 30
    assert 'filename="prompt-only-train.jsonl"' in answer.headers["content-disposition"]
    [line] = entries(house.room.store, actions=["export"])
    assert (line.user, line.subject, line.detail["split"]) == (exporter.user.id, "prompt-only", "train")


def test_an_export_is_what_the_store_holds(house: House, tmp_path: Path) -> None:
    house.batch(700)
    odd = [Prompt.user(f"one\u2028two {i}") for i in range(700)]  # an end of a line to str.splitlines, and to httpx
    house.room.store.add(*odd)
    rater = house.person(may_export=True)
    with client(house, rater) as studio:
        for _ in range(5):
            item = studio.next()
            assert isinstance(item, Held)
            studio.submit(item, better_first(item.texts))
        written = studio.export(tmp_path / "out.jsonl")
    with (tmp_path / "out.jsonl").open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert written == len(lines) == 1405
    kept = [
        Comparison.model_validate({k: v for k, v in x.items() if k != "kind"})
        for x in lines
        if x["kind"] == "comparison"
    ]
    assert kept == list(house.room.store.comparisons())


def test_parquet_and_the_labelling_tools_array(house: House, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'tutelage[parquet]'")
    from pyarrow.parquet import read_table

    house.batch(2)
    rater = house.person(may_export=True)
    with client(house, rater) as studio:
        while item := studio.next():
            studio.submit(item, better_first(item.texts))
    (tmp_path / "x.parquet").write_bytes(rater("GET", "/export?format=preference&file=parquet").content)
    assert read_table(tmp_path / "x.parquet").num_rows == 2
    assert len(rater("GET", "/export?format=argilla").json()) == 2
    assert rater("GET", "/export?format=tutelage&file=parquet").status_code == 400


# ---- the client


def test_the_client_labels_a_batch_that_it_opened(house: House) -> None:
    lead, rater = house.person("lead"), house.person()
    with client(house, lead) as studio:
        assert studio.push_prompts(Prompt.user(f"p{i}") for i in range(1200)) == 1200
        assert studio.push_prompts([Prompt.user("p0")]) == 0
        batch = studio.open_batch(
            BatchSpec(name="b", kind="comparison", overlap=1, repeat_share=0), [question(i) for i in range(3)]
        )
        assert [b.id for b in studio.batches()] == [batch.id]
    with client(house, rater) as studio:
        done = 0
        while item := studio.next(batch.id):
            if done == 0:
                studio.submit(item, better_first(item.texts))
                back = studio.undo()
                assert back is not None
                assert back.id == item.id
            studio.submit(item, better_first(item.texts), seconds=1.5)
            done += 1
        why = studio.why(batch.id)
        assert (done, why is not None and why.reason) == (3, "finished")
        assert [offer.answered for offer in studio.offers()] == [3]
        with pytest.raises(StudioError, match="scope 'lead'") as caught:
            studio.batches()
        assert caught.value.status == 403
    assert house.room.store.count("comparisons") == 3
    assert {c.ranks for c in house.room.store.comparisons()} == {(1, 2)}
