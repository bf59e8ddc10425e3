"""PandaLM's human-annotated test set (Wang et al. 2023): two answers and the verdicts of three people.

A verdict is 1 or 2 for the better answer, 0 for a tie. A row becomes one comparison by each person, `ID-1` to `ID-3`
after the annotator given for the import. `cmp_key` names the two models. In the published file six answers that read
"True" have become JSON's true; they are texts again here.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby

from tutelage.feedback.formats.row import FILE, Row, RowError, comparison, completion, person, seen, text, value
from tutelage.records import Annotator, Comparison, Prompt, Source

VERDICTS = {0: (1, 1), 1: (1, 2), 2: (2, 1)}
PEOPLE = 3


def parse(row: Row, who: Annotator) -> list[Comparison]:
    """One row as three people's comparisons. Raises RowError."""
    instruction, more = text(row, "instruction"), text(row, "input") if "input" in row else ""
    prompt = Prompt.user(f"{instruction}\n\n{more}" if more else instruction)
    models = row["cmp_key"].split("_") if isinstance(row.get("cmp_key"), str) else []
    sources = [Source(model=model) for model in models] if len(models) == 2 else [FILE, FILE]
    answers = [completion(prompt, _response(row, i + 1), source) for i, source in enumerate(sources)]
    return [comparison(prompt, answers, _verdict(row, i), person(who, i)) for i in range(1, PEOPLE + 1)]


def _response(row: Row, number: int) -> str:
    found = value(row, field := f"response{number}")
    return str(found) if isinstance(found, bool) else text(row, field)


def _verdict(row: Row, number: int) -> tuple[int, int]:
    field = f"annotator{number}"
    found = value(row, field)
    if isinstance(found, bool) or not isinstance(found, int) or found not in VERDICTS:
        raise RowError(field, f"is {seen(found)}: it must be 0 (tie), 1 or 2")
    return VERDICTS[found]


def render(records: Iterable[Comparison]) -> Iterator[tuple[int, Row | None]]:
    """Comparisons that follow one another, of the same two answers by three people, as one row each.

    Yields how many comparisons were taken, and the row; None in its place for those that make no row.
    """
    groups = groupby(records, key=lambda record: (record.prompt.id, tuple(c.id for c in record.completions)))
    for number, (_, group) in enumerate(groups):
        votes = list(group)
        yield len(votes), _row(number, votes)


def _row(number: int, votes: list[Comparison]) -> Row | None:
    first = votes[0]
    people = {vote.annotator.id for vote in votes}
    alone = len(first.prompt.messages) == 1 and first.prompt.messages[0].role == "user"
    if not alone or len(first.completions) != 2 or len(votes) != PEOPLE or len(people) != PEOPLE:
        return None
    verdicts = {f"annotator{i}": _number(vote.ranks) for i, vote in enumerate(votes, start=1)}
    return {
        "idx": number,
        "cmp_key": "_".join(answer.source.model for answer in first.completions),
        "instruction": first.prompt.messages[0].content,
        "input": "",
        "response1": first.completions[0].text,
        "response2": first.completions[1].text,
        **verdicts,
    }


def _number(ranks: tuple[int, ...]) -> int:
    return 0 if ranks[0] == ranks[1] else 1 if ranks[0] < ranks[1] else 2
