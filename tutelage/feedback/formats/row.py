"""One row of a file: reading its fields, and saying which one is wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from tutelage.errors import DataError
from tutelage.records import Annotator, Comparison, Completion, Message, Prompt, Source, content_id

Row = Mapping[str, Any]
FILE = Source(model="file")
TAKEN = ("system", "user", "assistant")


class RowError(DataError):
    """A row cannot be read. `field` is the one at fault, empty when it is the whole row."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field

    @classmethod
    def of(cls, error: ValidationError) -> "RowError":
        """The first fault that pydantic found."""
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        return cls(".".join(str(part) for part in first["loc"]), message[:1].lower() + message[1:])


def value(row: Row, field: str) -> Any:
    """A field that must be there. Raises RowError."""
    if field not in row:
        raise RowError(field, f"is missing; the row has {', '.join(sorted(row)) or 'no fields'}")
    return row[field]


def text(row: Row, field: str) -> str:
    """A field that must be a string. Raises RowError."""
    found = value(row, field)
    if not isinstance(found, str):
        raise RowError(field, f"is {seen(found)}, where a text is needed")
    return writable(found, field)


def writable(found: str, field: str) -> str:
    """The text, if it can be written as UTF-8 (half a surrogate pair can't). Raises RowError."""
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise RowError(field, f"has half a surrogate pair at character {error.start}, which is no text") from error
    return found


def messages(found: Any, field: str) -> tuple[Message, ...]:
    """A list of `{"role", "content"}`. Raises RowError."""
    if not isinstance(found, list) or not found:
        raise RowError(field, f"is {seen(found)}, where a list of messages is needed")
    return tuple(_message(item, f"{field}.{i}") for i, item in enumerate(found))


def _message(item: Any, field: str) -> Message:
    if not isinstance(item, Mapping):
        raise RowError(field, f"is {seen(item)}, where a message with role and content is needed")
    more = sorted(set(item) - {"role", "content"})
    if more:
        raise RowError(f"{field}.{more[0]}", "is no part of a message here: only role and content are")
    role = value_in(item, "role", field)
    if role not in TAKEN:
        raise RowError(f"{field}.role", f"is {seen(role)}: it must be one of {', '.join(TAKEN)}")
    content = value_in(item, "content", field)
    if not isinstance(content, str):
        raise RowError(f"{field}.content", f"is {seen(content)}, where a text is needed")
    return Message(role=role, content=writable(content, f"{field}.content"))


def value_in(item: Mapping[str, Any], key: str, field: str) -> Any:
    """A key of an inner object that must be there. Raises RowError."""
    if key not in item:
        raise RowError(f"{field}.{key}", "is missing")
    return item[key]


def listed(found: Any, field: str) -> list[Any]:
    """An inner value that must be a list. Raises RowError."""
    if not isinstance(found, list):
        raise RowError(field, f"is {seen(found)}, where a list is needed")
    return found


def nested(found: Any, field: str) -> Mapping[str, Any]:
    """An inner value that must be an object. Raises RowError."""
    if not isinstance(found, Mapping):
        raise RowError(field, f"is {seen(found)}, where an object with fields is needed")
    return found


def seen(found: Any) -> str:
    """How a value looks in a message: short."""
    shown = repr(found)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."


def completion(prompt: Prompt, text: str, source: Source = FILE) -> Completion:
    """An imported completion. Its id is its content's, so importing a file again adds nothing."""
    return Completion(id=content_id("completion", prompt.id, source.model, text), text=text, source=source)


def comparison(
    prompt: Prompt,
    answers: Sequence[Completion],
    ranks: tuple[int, ...],
    who: Annotator,
    shown: tuple[int, ...] | None = None,
) -> Comparison:
    """An imported judgement. Its id is its content's.

    Files of pairs do not say which completion stood first on the screen, so without `shown` it is drawn from the ids:
    half and half, and never telling which one won.
    """
    ids = [answer.id for answer in answers]
    if shown is None:
        drawn = int(content_id("shown", *sorted(ids))[:8], 16) % 2
        first = ids.index(sorted(ids)[drawn])
        shown = (first, 1 - first)
    return Comparison(
        id=content_id("comparison", who.id, prompt.id, *ids, *map(str, ranks)),
        prompt=prompt,
        completions=tuple(answers),
        ranks=ranks,
        shown=shown,
        annotator=who,
    )


def person(who: Annotator, id: str | int) -> Annotator:
    """One of the people in a file that names several: their id there, after the annotator given for the import."""
    return Annotator(id=f"{who.id}-{id}", kind=who.kind, name=f"{who.name} {id}")


ASKED = ("prompt", "instruction", "question", "input", "request", "messages", "conversation")


def asked(fields: Mapping[str, Any], within: str) -> tuple[str, Prompt]:
    """Which field of a labelling tool's task is the prompt, and the prompt: a text of the user's, or messages.

    Tools let people name their fields as they like; the usual names of a prompt are tried in turn. Raises RowError.
    """
    name = next((name for name in ASKED if name in fields), None)
    if name is None:
        raise RowError(within, f"has {', '.join(fields) or 'no fields'}: call the prompt one of {', '.join(ASKED)}")
    found = fields[name]
    if isinstance(found, str):
        return name, Prompt.user(writable(found, f"{within}.{name}"))
    return name, Prompt(messages=messages(found, f"{within}.{name}"))


def said(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as a labelling tool shows it: the user's text, or messages."""
    first = prompt.messages[0]
    alone = len(prompt.messages) == 1 and first.role in ("user", "text")
    return first.content if alone else [message.model_dump() for message in prompt.messages]


def shared_turns(one: Sequence[Message], other: Sequence[Message], start: int = 0) -> int:
    """How many leading messages both share, leaving each at least one that starts with the assistant's turn."""
    count = 0
    while count < min(len(one), len(other)) - 1 and one[count] == other[count]:
        count += 1
    while count > start and not one[count].role == other[count].role == "assistant":
        count -= 1
    return count
