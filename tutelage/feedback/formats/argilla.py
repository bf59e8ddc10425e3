"""Argilla's records, as `dataset.records.to_json` (2.x) writes them, and as its REST API and 1.x do.

A record has `fields` (the prompt and the answers, by name) and `responses`: in 2.x `{question: [{"value",
"user_id"}]}`, before that `[{"user_id", "status", "values": {question: {"value"}}}]`. Two kinds of question say which
answer is better:

- a ranking: the names of the answers' fields, best first; or `[{"value": name, "rank": n}]`, where equal ranks are
  ties; or the same as `{"value": [names], "rank": [ns]}`;
- a label: the name of one of two answers' fields.

Each answer to such a question becomes a comparison by that user; a record that nobody answered becomes its prompt.
Other questions, suggestions (a model's), drafts and discarded responses are left alone. Fields stand on the page in the
order of `fields`, which is what `shown` records.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tutelage.feedback.formats.row import (
    Row,
    RowError,
    asked,
    comparison,
    completion,
    listed,
    nested,
    person,
    said,
    seen,
    text,
    value,
    value_in,
)
from tutelage.records import Annotator, Comparison, Prompt

QUESTION = "ranking"


def parse(row: Row, who: Annotator) -> list[Comparison | Prompt]:
    """One record as each user's comparison. Raises RowError."""
    fields = nested(value(row, "fields"), "fields")
    name, prompt = asked(fields, "fields")
    others = [other for other in fields if other != name]
    made: list[Comparison | Prompt] = []
    for user, found, at in _responses(value(row, "responses")):
        ranks = _ranks(found, others, at)
        if ranks is None:
            continue
        names = [other for other in others if other in ranks]
        answers = [completion(prompt, text(fields, other)) for other in names]
        places = tuple(ranks[other] for other in names)
        made.append(comparison(prompt, answers, places, person(who, user), tuple(range(len(names)))))
    return made or [prompt]


def _responses(found: Any) -> Iterator[tuple[str, Any, str]]:
    """Who said what, and where it stands in the row."""
    if found is None:
        return
    if isinstance(found, Mapping):
        for question, given in found.items():
            for i, one in enumerate(listed(given, f"responses.{question}")):
                at = f"responses.{question}.{i}"
                if nested(one, at).get("status", "submitted") == "submitted":
                    yield str(value_in(one, "user_id", at)), value_in(one, "value", at), f"{at}.value"
        return
    for i, one in enumerate(listed(found, "responses")):
        at = f"responses.{i}"
        if nested(one, at).get("status", "submitted") == "submitted":
            for question, given in nested(value_in(one, "values", at), f"{at}.values").items():
                inner = f"{at}.values.{question}"
                yield (
                    str(value_in(one, "user_id", at)),
                    value_in(nested(given, inner), "value", inner),
                    f"{inner}.value",
                )


def _ranks(found: Any, others: list[str], at: str) -> dict[str, int] | None:
    """Each named answer's place, 1 for the best; None for a question that compares nothing."""
    if isinstance(found, str):
        if found not in others or len(others) != 2:
            return None  # a text, or a label that names no answer
        return {other: 1 if other == found else 2 for other in others}
    if isinstance(found, Mapping) and {"value", "rank"} <= set(found):
        pairs = zip(listed(found["value"], f"{at}.value"), listed(found["rank"], f"{at}.rank"), strict=False)
        found = [{"value": name, "rank": rank} for name, rank in pairs]
    if not isinstance(found, list) or not found or not all(isinstance(one, str | Mapping) for one in found):
        return None
    ranks: dict[str, int] = {}
    for i, one in enumerate(found):
        name = one if isinstance(one, str) else value_in(one, "value", f"{at}.{i}")
        if name not in others:
            raise RowError(f"{at}.{i}", f"is {seen(name)}, which is no answer among the fields {', '.join(others)}")
        if name in ranks:
            raise RowError(f"{at}.{i}", f"names {name} a second time")
        ranks[name] = i + 1 if isinstance(one, str) else _rank(one, f"{at}.{i}")
    if len(ranks) < 2:
        raise RowError(at, f"ranks {', '.join(ranks)} alone: two answers at least are needed")
    return ranks


def _rank(one: Mapping[str, Any], at: str) -> int:
    rank = value_in(one, "rank", at)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise RowError(f"{at}.rank", f"is {seen(rank)}: a rank is a whole number from 1")
    return rank


def render(record: Comparison) -> list[Row]:
    """One comparison as a record of 2.x. Ranks are given beside the names, so that ties are kept."""
    names = [f"response_{i + 1}" for i in range(len(record.completions))]
    ranks = sorted(zip(record.ranks, names, strict=True))
    return [
        {
            "id": record.id,
            "fields": {
                "prompt": said(record.prompt),
                **{names[i]: record.completions[i].text for i in record.shown},
            },
            "metadata": {},
            "suggestions": {},
            "responses": {
                QUESTION: [
                    {
                        "value": [{"value": name, "rank": rank} for rank, name in ranks],
                        "user_id": record.annotator.id,
                    }
                ]
            },
            "vectors": {},
        }
    ]
