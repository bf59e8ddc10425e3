"""What waits to be ranked: prompts with sampled completions, in the file a sampling run leaves."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import Field, ValidationError

from tutelage.checkpoint import lines_of, write_atomically
from tutelage.errors import DataError
from tutelage.records import Comparison, Completion, Prompt, Record

FILE = "questions.jsonl"


class Question(Record):
    """One prompt and the completions to rank."""

    prompt: Prompt
    completions: tuple[Completion, ...] = Field(min_length=2, max_length=9)

    @property
    def key(self) -> frozenset[str]:
        """The completions' ids: who has ranked these has answered this question."""
        return frozenset(c.id for c in self.completions)


def write_questions(folder: Path, questions: Iterable[Question]) -> Path:
    """Leave the questions in a run's folder. Raises RunError when they cannot be written."""
    path = folder / FILE
    write_atomically(path, "".join(q.model_dump_json() + "\n" for q in questions))
    return path


def read_questions(path: Path) -> list[Question]:
    """The questions of a file. Raises DataError naming file and line."""
    try:
        lines = lines_of(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the questions in {path}: {error}. `tutelage sample` makes such a file."
        ) from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(Question.model_validate_json(line))
        except ValidationError as error:
            raise DataError(f"{path}, line {number}: {error.errors()[0]['msg']}") from error
    return found


def unanswered(questions: Iterable[Question], answers: Iterable[Comparison]) -> Iterator[Question]:
    """The questions nobody of these answers has ranked, in their order."""
    asked = {q.key: q for q in questions}
    for answer in answers:
        asked.pop(frozenset(c.id for c in answer.completions), None)
    return iter(asked.values())
