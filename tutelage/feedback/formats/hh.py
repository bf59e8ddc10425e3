"""Anthropic's HH-RLHF (Bai et al. 2022): `chosen` and `rejected` are whole dialogues as text.

A dialogue is "\\n\\nHuman: …\\n\\nAssistant: …", several turns. The turns that both share become the prompt; what
follows the assistant's next header is the completion. In 5 of the 2,312 test rows of harmless-base one side goes on
with further turns; they stay in the completion as they stand in the text, since the model wrote them.
"""

import re

from tutelage.feedback.formats.row import Row, RowError, comparison, completion, shared_turns, text
from tutelage.records import Annotator, Comparison, Message, Prompt, Role

HEADER = re.compile(r"\n\n(Human|Assistant): ?")
ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
NAMES: dict[Role, str] = {"user": "Human", "assistant": "Assistant"}


def parse(row: Row, who: Annotator) -> list[Comparison]:
    """One row as one comparison. Raises RowError."""
    chosen, rejected = text(row, "chosen"), text(row, "rejected")
    one, starts = _turns(chosen, "chosen")
    other, other_starts = _turns(rejected, "rejected")
    count = shared_turns(one, other)
    if not count:
        raise RowError("chosen", "shares no turn with rejected before the assistant's, so there is no prompt")
    prompt = Prompt(messages=tuple(one[:count]))
    answers = [completion(prompt, chosen[starts[count] :]), completion(prompt, rejected[other_starts[count] :])]
    return [comparison(prompt, answers, (1, 2), who)]


def _turns(dialogue: str, field: str) -> tuple[list[Message], list[int]]:
    """The turns, and where the text of each begins."""
    headers = list(HEADER.finditer(dialogue))
    if not headers or headers[0].start() != 0:
        raise RowError(field, "is no dialogue: it must begin with a blank line and 'Human: '")
    ends = [header.start() for header in headers[1:]] + [len(dialogue)]
    turns = [
        Message(role=ROLES[header[1]], content=dialogue[header.end() : end])
        for header, end in zip(headers, ends, strict=True)
    ]
    if all(turn.role != "assistant" for turn in turns[1:]):
        raise RowError(field, "has no turn of the Assistant after the Human's")
    return turns, [header.end() for header in headers]


def render(record: Comparison) -> list[Row]:
    """Every decided pair as a row; none where the prompt is no dialogue of user and assistant."""
    if any(message.role not in NAMES for message in record.prompt.messages):
        return []
    before = "".join(f"\n\n{NAMES[m.role]}: {m.content}" for m in record.prompt.messages) + "\n\nAssistant: "
    texts = [before + answer.text for answer in record.completions]
    return [{"chosen": texts[better], "rejected": texts[worse]} for better, worse in record.pairs()]
