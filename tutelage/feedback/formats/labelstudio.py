"""Label Studio's JSON export: tasks with `data` and `annotations`, each with the `result` of one person.

Two kinds of result compare answers:

- `pairwise`: `to_name` names the left and the right text, `value` is `{"selected": "left"}` or `"right"`. There are no
  ties. The names are those of tags in the labelling configuration; a field of `data` of the same name, or else the only
  one that ends in the same number (tag `txt-1`, field `text1`), holds the text;
- `ranker` over one list: `value` is `{"ranker": [ids, best first]}` or `{"ranker": {name: [ids]}}`; the field of `data`
  that holds the list has items with `id` and `body` (or `title`). Buckets say no order among themselves, so a result
  with several is refused.

Each annotation becomes a comparison by its person (`completed_by`, the id alone: an e-mail address is not taken along);
a task that nobody labelled becomes its prompt. Cancelled annotations are skips and are left out.
"""

import re
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
    writable,
)
from tutelage.records import Annotator, Comparison, Prompt


def parse(row: Row, who: Annotator) -> list[Comparison | Prompt]:
    """One task as each person's comparison. Raises RowError."""
    data = nested(value(row, "data"), "data")
    name, prompt = asked(data, "data")
    made: list[Comparison | Prompt] = []
    for found, by, at in _results(value(row, "annotations")):
        match found.get("type"):
            case "pairwise":
                texts, ranks = _pair(found, data, name, at)
            case "ranker":
                texts, ranks = _ranking(found, data, at)
            case _:
                continue
        answers = [completion(prompt, answer) for answer in texts]
        made.append(comparison(prompt, answers, ranks, person(who, by), tuple(range(len(texts)))))
    return made or [prompt]


def _results(found: Any) -> Iterator[tuple[Mapping[str, Any], str, str]]:
    for i, one in enumerate(listed(found, "annotations")):
        at = f"annotations.{i}"
        if nested(one, at).get("was_cancelled"):
            continue
        by = one.get("completed_by")
        by = value_in(by, "id", f"{at}.completed_by") if isinstance(by, Mapping) else by
        if isinstance(by, bool) or not isinstance(by, int | str):
            raise RowError(f"{at}.completed_by", f"is {seen(by)}, where the id of a person is needed")
        for j, result in enumerate(listed(value_in(one, "result", at), f"{at}.result")):
            yield nested(result, f"{at}.result.{j}"), str(by), f"{at}.result.{j}"


def _pair(found: Mapping[str, Any], data: Mapping[str, Any], prompt: str, at: str) -> tuple[list[str], tuple[int, ...]]:
    to_name = value_in(found, "to_name", at)
    tags = to_name.split(",") if isinstance(to_name, str) else []
    if len(tags) != 2:
        raise RowError(f"{at}.to_name", f"is {seen(to_name)}, where the names of two texts are needed")
    names = [_field(tag.strip(), [name for name in data if name != prompt], f"{at}.to_name") for tag in tags]
    selected = nested(value_in(found, "value", at), f"{at}.value").get("selected")
    if selected not in ("left", "right"):
        raise RowError(f"{at}.value.selected", f"is {seen(selected)}: it must be 'left' or 'right'")
    return [text(data, name) for name in names], (1, 2) if selected == "left" else (2, 1)


def _field(tag: str, names: list[str], at: str) -> str:
    """The field of `data` that a tag shows."""
    if tag in names:
        return tag
    number = re.search(r"\d+\Z", tag)
    same = [name for name in names if number and re.search(rf"(?<!\d){number[0]}\Z", name)]
    if len(same) != 1:
        raise RowError(at, f"names the tag {tag}, but data has no such field, only {', '.join(names)}")
    return same[0]


def _ranking(found: Mapping[str, Any], data: Mapping[str, Any], at: str) -> tuple[list[str], tuple[int, ...]]:
    order = value_in(nested(value_in(found, "value", at), f"{at}.value"), "ranker", f"{at}.value")
    at = f"{at}.value.ranker"
    if isinstance(order, Mapping):
        if len(order) != 1:
            raise RowError(at, f"has the buckets {', '.join(order)}, which say no order among themselves")
        order = next(iter(order.values()))
    places = {str(id): place for place, id in enumerate(listed(order, at), start=1)}
    field, items = _items(data, set(places), at)
    texts = [_body(item, f"data.{field}.{i}") for i, item in enumerate(items)]
    return texts, tuple(places[str(item["id"])] for item in items)


def _items(data: Mapping[str, Any], ids: set[str], at: str) -> tuple[str, list[Mapping[str, Any]]]:
    """The list of `data` that was ranked, as it stood."""
    for field, found in data.items():
        if isinstance(found, list) and found and all(isinstance(item, Mapping) and "id" in item for item in found):
            held = {str(item["id"]) for item in found}
            if held != ids or len(held) != len(found):
                both = ", ".join(sorted(held ^ ids)) or "an id twice"
                raise RowError(at, f"and data.{field} do not hold the same ids: {both}")
            return field, found
    raise RowError("data", "has no list of items with id and body, though a ranking was made of one")


def _body(item: Mapping[str, Any], at: str) -> str:
    found = item.get("body", item.get("title"))
    if not isinstance(found, str):
        raise RowError(f"{at}.body", f"is {seen(found)}, where a text is needed")
    return writable(found, f"{at}.body")


def render(record: Comparison) -> list[Row]:
    """One comparison as a task: a pair as `pairwise`, more as `ranker`. Ties make none: neither can say them."""
    if record.ties():
        return []
    texts = [record.completions[i].text for i in record.shown]
    data: dict[str, Any] = {"prompt": said(record.prompt)}
    if len(texts) == 2:
        data |= {"answer1": texts[0], "answer2": texts[1]}
        first, second = (record.ranks[i] for i in record.shown)
        choice = {"selected": "left" if first < second else "right"}
        result = {"from_name": "comparison", "to_name": "answer1,answer2", "type": "pairwise", "value": choice}
    else:
        ids = [f"answer{i + 1}" for i in record.shown]
        data["items"] = [{"id": id, "title": "", "body": body} for id, body in zip(ids, texts, strict=True)]
        best_first = sorted(ids, key=lambda id: record.ranks[int(id.removeprefix("answer")) - 1])
        result = {"from_name": "rank", "to_name": "items", "type": "ranker", "value": {"ranker": {"rank": best_first}}}
    annotation = {"completed_by": record.annotator.id, "was_cancelled": False, "result": [result]}
    return [{"data": data, "annotations": [annotation]}]
