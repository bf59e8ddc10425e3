"""Exports of Argilla and Label Studio, typed by hand from their published formats."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_exchange import ANN, bring, timeless, write
from test_exchange import store as store
from test_store import everything

from tutelage.errors import DataError
from tutelage.feedback.exchange import Format, export_file
from tutelage.feedback.store import Store
from tutelage.records import Comparison, Prompt

ANA, BEN = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
FIELDS = {"prompt": "Name a film.", "response_1": "Playtime.", "response_2": "No.", "response_3": "Stalker."}

# Argilla 2.x, `dataset.records.to_json`: questions by name, each with what every user said.
ARGILLA: dict[str, Any] = {
    "id": "r1",
    "fields": FIELDS,
    "metadata": {"source": "hand"},
    "suggestions": {
        "ranking": {"value": ["response_2", "response_1", "response_3"], "score": None, "agent": "a-model"}
    },
    "responses": {
        "ranking": [
            {"value": ["response_1", "response_3", "response_2"], "user_id": ANA},
            {"value": ["response_3", "response_1", "response_2"], "user_id": BEN},
        ],
        "why": [{"value": "It is a film.", "user_id": ANA}],
        "quality": [{"value": 4, "user_id": ANA}],
    },
    "vectors": {},
    "_server_id": "33333333-3333-4333-8333-333333333333",
}
# Its REST API and 1.x: users, each with what they said to every question; ranks may tie.
ARGILLA_1: dict[str, Any] = {
    "fields": FIELDS,
    "responses": [
        {
            "user_id": ANA,
            "status": "submitted",
            "values": {
                "ranking": {
                    "value": [
                        {"value": "response_2", "rank": 2},
                        {"value": "response_1", "rank": 1},
                        {"value": "response_3", "rank": 1},
                    ]
                }
            },
        },
        {"user_id": BEN, "status": "discarded", "values": {"ranking": {"value": [{"value": "nothing", "rank": 1}]}}},
    ],
}
# Label Studio, export "JSON": the templates "Human preference" (Pairwise) and "LLM ranker" (List and Ranker).
PAIRWISE: dict[str, Any] = {
    "id": 1,
    "data": {"prompt": "Name a film.", "answer1": "Playtime.", "answer2": "No."},
    "annotations": [
        {
            "id": 1001,
            "completed_by": 10,
            "result": [
                {
                    "from_name": "comparison",
                    "id": "Dx_aB91ISN",
                    "to_name": "answer1,answer2",
                    "type": "pairwise",
                    "value": {"selected": "right"},
                },
                {"from_name": "why", "to_name": "prompt", "type": "textarea", "value": {"text": ["short"]}},
            ],
            "was_cancelled": False,
            "ground_truth": False,
            "created_at": "2021-03-09T22:16:08.728353Z",
            "lead_time": 4.288,
        },
        {"id": 1002, "completed_by": {"id": 11, "email": "ben@example.org"}, "was_cancelled": True, "result": []},
    ],
    "predictions": [],
}
RANKER: dict[str, Any] = {
    "id": 2,
    "data": {
        "prompt": "Name a film.",
        "items": [
            {"id": "llm_1", "title": "One", "body": "Playtime."},
            {"id": "llm_2", "title": "Two", "body": "No."},
            {"id": "llm_3", "title": "Three", "body": "Stalker."},
        ],
    },
    "annotations": [
        {
            "completed_by": {"id": 11, "email": "ben@example.org"},
            "result": [
                {
                    "from_name": "rank",
                    "to_name": "items",
                    "type": "ranker",
                    "value": {"ranker": {"rank": ["llm_3", "llm_1", "llm_2"]}},
                }
            ],
            "was_cancelled": False,
        }
    ],
}
THREE = ["Playtime.", "No.", "Stalker."]


def judged(store: Store) -> list[tuple[str, list[str], tuple[int, ...]]]:
    return [(c.annotator.id, [a.text for a in c.completions], c.ranks) for c in store.comparisons()]


def array(path: Path, *rows: Any) -> Path:
    path.write_text(json.dumps(rows, indent=1))
    return path


def changed(row: Any, at: str, value: Any) -> Any:
    """A copy of the row with another value at a dotted place."""
    copy = json.loads(json.dumps(row))
    inner = copy
    *way, last = [int(part) if part.isdigit() else part for part in at.split(".")]
    for part in way:
        inner = inner[part]
    inner[last] = value
    return copy


def test_argilla_2_is_a_comparison_by_each_user(store: Store, tmp_path: Path) -> None:
    report = bring(store, array(tmp_path / "records.json", ARGILLA))
    assert (report.format, report.read, report.added, report.bad) == ("argilla", 1, 2, [])
    assert judged(store) == [(f"ann-{ANA}", THREE, (1, 3, 2)), (f"ann-{BEN}", THREE, (2, 3, 1))]
    assert {c.prompt for c in store.comparisons()} == {Prompt.user("Name a film.")}
    assert {c.shown for c in store.comparisons()} == {(0, 1, 2)}
    assert store.count("completions") == 3


def test_argilla_1_keeps_ties_and_leaves_out_what_was_not_submitted(store: Store, tmp_path: Path) -> None:
    assert bring(store, array(tmp_path / "records.json", ARGILLA_1)).added == 1
    assert judged(store) == [(f"ann-{ANA}", THREE, (1, 2, 1))]


def test_argilla_ranks_as_columns_and_a_label_that_names_the_better_one(store: Store, tmp_path: Path) -> None:
    columns = changed(
        ARGILLA, "responses.ranking", [{"value": {"value": ["response_2", "response_1"], "rank": [1, 2]}}]
    )
    columns["responses"]["ranking"][0]["user_id"] = ANA
    pair = {"fields": {"instruction": [{"role": "user", "content": "q"}], "a": "yes", "b": "no"}}
    pair["responses"] = {"better": [{"value": "b", "user_id": BEN}, {"value": "neither", "user_id": ANA}]}  # type: ignore[dict-item]
    assert bring(store, array(tmp_path / "records.json", columns, pair)).added == 2
    assert judged(store) == [(f"ann-{ANA}", ["Playtime.", "No."], (2, 1)), (f"ann-{BEN}", ["yes", "no"], (2, 1))]


def test_label_studio_pairs_and_rankings(store: Store, tmp_path: Path) -> None:
    report = bring(store, array(tmp_path / "export.json", PAIRWISE, RANKER))
    assert (report.format, report.read, report.added, report.bad) == ("label-studio", 2, 2, [])
    assert judged(store) == [("ann-10", ["Playtime.", "No."], (2, 1)), ("ann-11", THREE, (2, 3, 1))]
    assert "example.org" not in str([c.model_dump() for c in store.comparisons()])


def test_label_studio_tags_are_found_by_name_or_number(store: Store, tmp_path: Path) -> None:
    row = changed(PAIRWISE, "data", {"text1": "first", "text2": "second", "text12": "?", "prompt": "q"})
    row["annotations"][0]["result"][0]["to_name"] = "txt-2, txt-1"  # the left one is the second
    assert bring(store, array(tmp_path / "export.json", row)).added == 1
    assert judged(store) == [("ann-10", ["second", "first"], (2, 1))]
    assert next(store.comparisons()).shown == (0, 1)


@pytest.mark.parametrize(
    "row",
    [
        {"fields": FIELDS, "responses": {}},
        {"fields": FIELDS, "responses": []},
        {"fields": FIELDS, "responses": None},
        {"data": {"prompt": "Name a film.", "answer1": "x"}, "annotations": []},
    ],
)
def test_what_nobody_answered_is_its_prompt(store: Store, tmp_path: Path, row: Any) -> None:
    assert bring(store, array(tmp_path / "tasks.json", row)).added == 1
    assert (list(store.prompts()), store.count("comparisons")) == ([Prompt.user("Name a film.")], 0)


FAULTS: list[tuple[Any, str, Any, str, str]] = [
    (ARGILLA, "fields", [], "fields", "where an object"),
    (ARGILLA, "fields", {"title": "x", "body": "y"}, "fields", "call the prompt one of prompt, instruction"),
    (ARGILLA, "fields.prompt", 7, "fields.prompt", "list of messages"),
    (ARGILLA, "fields.response_2", None, "response_2", "where a text"),
    (ARGILLA, "responses", "none", "responses", "where a list"),
    (ARGILLA, "responses.ranking", {}, "responses.ranking", "where a list"),
    (ARGILLA, "responses.ranking.1", {"value": []}, "responses.ranking.1.user_id", "is missing"),
    (ARGILLA, "responses.ranking.0.value.2", "response_9", "responses.ranking.0.value.2", "no answer among the fields"),
    (ARGILLA, "responses.ranking.0.value.2", "response_1", "responses.ranking.0.value.2", "a second time"),
    (ARGILLA, "responses.ranking.0.value", ["response_1"], "responses.ranking.0.value", "two answers at least"),
    (ARGILLA_1, "responses.0.values.ranking", {}, "responses.0.values.ranking.value", "is missing"),
    (
        ARGILLA_1,
        "responses.0.values.ranking.value.0.rank",
        0,
        "responses.0.values.ranking.value.0.rank",
        "whole number from 1",
    ),
    (PAIRWISE, "data", None, "data", "where an object"),
    (PAIRWISE, "annotations", {}, "annotations", "where a list"),
    (PAIRWISE, "annotations.0.completed_by", None, "annotations.0.completed_by", "id of a person"),
    (PAIRWISE, "annotations.0.completed_by", {"email": "x"}, "annotations.0.completed_by.id", "is missing"),
    (
        PAIRWISE,
        "annotations.0.result.0.value.selected",
        "up",
        "annotations.0.result.0.value.selected",
        "'left' or 'right'",
    ),
    (PAIRWISE, "annotations.0.result.0.to_name", "answer1", "annotations.0.result.0.to_name", "names of two texts"),
    (PAIRWISE, "annotations.0.result.0.to_name", "left,right", "annotations.0.result.0.to_name", "no such field"),
    (PAIRWISE, "data.answer2", 3, "answer2", "where a text"),
    (RANKER, "data.items", "none", "data", "no list of items"),
    (RANKER, "data.items.1.body", 5, "data.items.1.body", "where a text"),
    (
        RANKER,
        "annotations.0.result.0.value.ranker.rank.2",
        "llm_7",
        "annotations.0.result.0.value.ranker",
        "the same ids: llm_2, llm_7",
    ),
    (
        RANKER,
        "annotations.0.result.0.value.ranker",
        {"good": ["llm_1"], "bad": ["llm_2", "llm_3"]},
        "annotations.0.result.0.value.ranker",
        "buckets good, bad",
    ),
]


@pytest.mark.parametrize(("row", "at", "value", "field", "message"), FAULTS)
def test_a_fault_is_named_by_file_line_and_field(
    store: Store, tmp_path: Path, row: Any, at: str, value: Any, field: str, message: str
) -> None:
    good = changed(row, "id", "another")
    path = write(tmp_path / "rows.json", "[", json.dumps(changed(row, at, value)), ",", json.dumps(good), "]")
    format: Format = "argilla" if "fields" in row else "label-studio"
    report = bring(store, path, format)
    [bad] = report.bad
    assert (report.read, bad.line, bad.field) == (2, 2, field)
    assert message in bad.message
    assert report.added > 0
    with pytest.raises(DataError, match=r"rows.json, line 2, field .* Nothing of this file was added"):
        bring(store, path, format, strict=True)


@pytest.mark.parametrize("format", ["argilla", "label-studio"])
def test_out_and_in_again_is_the_same_judgement(store: Store, tmp_path: Path, format: Format) -> None:
    bring(store, array(tmp_path / "a.json", ARGILLA))
    bring(store, array(tmp_path / "b.json", PAIRWISE, RANKER))
    store.add(*everything())
    report = export_file(tmp_path / "out.json", format, store)
    kept = [c for c in store.comparisons() if format == "argilla" or not c.ties()]
    assert (report.rows, report.skipped) == (len(kept), store.count("comparisons") - len(kept))
    with Store(tmp_path / "again.db") as other:
        assert bring(other, tmp_path / "out.json", format, strict=True).added == len(kept)
        assert [sayings(c) for c in other.comparisons()] == [sayings(c) for c in kept]
        export_file(tmp_path / "again.json", format, other)
        assert bring(other, tmp_path / "again.json", format).bad == []


def sayings(comparison: Comparison) -> Any:
    """What was said, whoever is named and however the completions are listed: texts in the order shown, their ranks."""
    told = comparison.reorder(comparison.shown)
    assert told.shown == tuple(range(len(told.ranks)))
    places = sorted(set(told.ranks))
    prompt = [m.content for m in comparison.prompt.messages]
    return prompt, [c.text for c in told.completions], [places.index(rank) for rank in told.ranks]


def test_an_import_is_lossless_from_there_on(store: Store, tmp_path: Path) -> None:
    bring(store, array(tmp_path / "a.json", ARGILLA, ARGILLA_1))
    bring(store, array(tmp_path / "b.json", PAIRWISE, RANKER))
    export_file(tmp_path / "all.jsonl", "tutelage", store)
    with Store(tmp_path / "again.db") as other:
        bring(other, tmp_path / "all.jsonl", strict=True)
        assert [timeless(c) for c in other.comparisons()] == [timeless(c) for c in store.comparisons()]
    assert bring(store, tmp_path / "a.json").added == 0
    assert ANN.id not in {a.id for a in store.annotators()}
