"""The dataset types that TRL publishes, each standard (texts) or conversational (lists of messages).

type                 fields                          becomes
preference           prompt?, chosen, rejected       Comparison
unpaired preference  prompt, completion, label       Rating: true is 7, false is 1
prompt-completion    prompt, completion              Demonstration
prompt-only          prompt                          Prompt
language modelling   text or messages                Demonstration

A standard prompt is continued as it stands (role `text`). Other columns of a row are left alone. Where `prompt` is not
given, it is what chosen and rejected share: whole messages, or the text up to the last word before they part. Of
`messages`, the last must be the assistant's, and is the demonstration. Of a bare `text`, the first eight words (half,
if there are fewer than 16) are the prompt and the rest is the demonstration, so that texts fall on both sides of the
split.
"""

import re
from typing import Any

from tutelage.feedback.formats.row import (
    Row,
    RowError,
    comparison,
    completion,
    messages,
    seen,
    shared_turns,
    text,
    value,
    writable,
)
from tutelage.records import Annotator, Comparison, Demonstration, Message, Prompt, Rating, content_id

OPENING_WORDS = 8
LIKED, DISLIKED, MIDDLE = 7, 1, 4


def parse_preference(row: Row, who: Annotator) -> list[Comparison]:
    """Chosen before rejected, with the prompt given or implied. Raises RowError."""
    if "prompt" in row:
        prompt = _prompt(row)
        texts = [_answer(row, "chosen", prompt), _answer(row, "rejected", prompt)]
    elif isinstance(value(row, "chosen"), str):
        prompt, *texts = _split_texts(text(row, "chosen"), text(row, "rejected"))
    else:
        prompt, *texts = _split_turns(row)
    return [comparison(prompt, [completion(prompt, t) for t in texts], (1, 2), who)]


def _prompt(row: Row) -> Prompt:
    found = value(row, "prompt")
    if isinstance(found, str):
        return Prompt.text(writable(found, "prompt"))
    return Prompt(messages=messages(found, "prompt"))


def _answer(row: Row, field: str, prompt: Prompt) -> str:
    found = value(row, field)
    if prompt.messages[0].role == "text":
        if not isinstance(found, str):
            raise RowError(field, f"is {seen(found)}, where a text is needed, because prompt is one")
        return writable(found, field)
    return _only_reply(messages(found, field), field)


def _only_reply(turns: tuple[Message, ...], field: str) -> str:
    if len(turns) != 1 or turns[0].role != "assistant":
        roles = ", ".join(turn.role for turn in turns)
        raise RowError(field, f"has the turns {roles} after the prompt, where one of the assistant is needed")
    return turns[0].content


def _split_texts(chosen: str, rejected: str) -> tuple[Prompt, str, str]:
    if chosen == rejected:
        raise RowError("rejected", "is the same text as chosen, so where the prompt ends cannot be told")
    parted = (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
    shared = chosen[: next(parted, min(len(chosen), len(rejected)))]
    shared = re.sub(r" ?\S+\Z| \Z", "", shared)  # a word begun in both, and the space before it, go to the completions
    if not shared:
        raise RowError("chosen", "begins with no word that rejected begins with too, so there is no prompt")
    return Prompt.text(shared), chosen[len(shared) :], rejected[len(shared) :]


def _split_turns(row: Row) -> tuple[Prompt, str, str]:
    chosen, rejected = messages(value(row, "chosen"), "chosen"), messages(value(row, "rejected"), "rejected")
    count = shared_turns(chosen, rejected)
    if not count:
        raise RowError("chosen", "shares no message with rejected before the assistant's, so there is no prompt")
    prompt = Prompt(messages=chosen[:count])
    return prompt, _only_reply(chosen[count:], "chosen"), _only_reply(rejected[count:], "rejected")


def parse_unpaired(row: Row, who: Annotator) -> list[Rating]:
    """A completion that was liked or not, as the end of the 1 to 7 scale. Raises RowError."""
    prompt = _prompt(row)
    answer = completion(prompt, _answer(row, "completion", prompt))
    label = value(row, "label")
    if not isinstance(label, bool):
        raise RowError("label", f"is {seen(label)}, where true or false is needed")
    score = LIKED if label else DISLIKED
    id = content_id("rating", who.id, prompt.id, answer.id, str(score))
    return [Rating(id=id, prompt=prompt, completion=answer, score=score, annotator=who)]


def parse_completion(row: Row, who: Annotator) -> list[Demonstration]:
    """A prompt and the answer to imitate. Raises RowError."""
    prompt = _prompt(row)
    return [_demonstration(prompt, _answer(row, "completion", prompt), who)]


def parse_prompt(row: Row, _who: Annotator) -> list[Prompt]:
    """A prompt alone. Raises RowError."""
    return [_prompt(row)]


def parse_language(row: Row, who: Annotator) -> list[Demonstration]:
    """A text or a conversation to imitate. Raises RowError."""
    if "text" in row:
        whole = text(row, "text")
        words = list(re.finditer(r"\S+", whole))
        if len(words) < 2:
            raise RowError("text", f"is {seen(whole)}: two words at least are needed, an opening and the rest")
        end = words[min(OPENING_WORDS, len(words) // 2) - 1].end()
        return [_demonstration(Prompt.text(whole[:end]), whole[end:], who)]
    turns = messages(value(row, "messages"), "messages")
    if len(turns) < 2:
        raise RowError("messages", "has one message: a prompt and the assistant's answer are needed")
    return [_demonstration(Prompt(messages=turns[:-1]), _only_reply(turns[-1:], "messages"), who)]


def _demonstration(prompt: Prompt, answer: str, who: Annotator) -> Demonstration:
    id = content_id("demonstration", who.id, prompt.id, answer)
    return Demonstration(id=id, prompt=prompt, text=answer, annotator=who)


def _written(prompt: Prompt, **answers: str) -> dict[str, Any]:
    """A prompt and its answers, as texts or as lists of messages."""
    if prompt.messages[0].role == "text":
        return {"prompt": prompt.messages[0].content, **answers}
    turns = {field: [{"role": "assistant", "content": answer}] for field, answer in answers.items()}
    return {"prompt": [message.model_dump() for message in prompt.messages], **turns}


def render_preference(record: Comparison) -> list[Row]:
    """Every decided pair, with the prompt given."""
    texts = [answer.text for answer in record.completions]
    return [_written(record.prompt, chosen=texts[better], rejected=texts[worse]) for better, worse in record.pairs()]


def render_unpaired(record: Rating) -> list[Row]:
    """Above the middle of the scale is true, below it false; the middle itself is neither."""
    if record.score == MIDDLE:
        return []
    return [{**_written(record.prompt, completion=record.completion.text), "label": record.score > MIDDLE}]


def render_completion(record: Demonstration) -> list[Row]:
    """A prompt and its answer."""
    return [_written(record.prompt, completion=record.text)]


def render_prompt(record: Prompt) -> list[Row]:
    """A prompt alone."""
    return [_written(record)]


def render_language(record: Demonstration) -> list[Row]:
    """The whole text, or the whole conversation."""
    row = _written(record.prompt, completion=record.text)
    if isinstance(row["prompt"], str):
        return [{"text": row["prompt"] + record.text}]
    return [{"messages": row["prompt"] + row["completion"]}]
