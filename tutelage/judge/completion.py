"""A chat completion as servers send it, and the verdict in it. Only the fields we read; what else there is, is left."""

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from tutelage.judge.asking import Reply, Usage
from tutelage.judge.verdict import SHOWN, of_text, of_tokens, of_words

Body = dict[str, Any]
Logprob = Annotated[float, Field(le=1e-3)]  # a little above 0 is rounding


class Part(BaseModel):
    """A part of a server's answer: unknown fields are left out, numbers are finite."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class Alternative(Part):
    """A token that could have stood there."""

    token: str
    logprob: Logprob


class Written(Alternative):
    """A token that stands there."""

    top_logprobs: tuple[Alternative, ...] = ()


class Logprobs(Part):
    """Of every token of an answer."""

    content: tuple[Written, ...] | None = None


class Message(Part):
    """What the model said."""

    content: str | None = None
    refusal: str | None = None


class Choice(Part):
    """One answer."""

    message: Message
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Counts(Part):
    """Tokens, as the server counts them."""

    prompt_tokens: Annotated[int, Field(ge=0)] = 0
    completion_tokens: Annotated[int, Field(ge=0)] = 0


class ChatCompletion(Part):
    """The whole response."""

    choices: Annotated[tuple[Choice, ...], Field(min_length=1)]
    usage: Counts | None = None


def read_body(content: bytes, options: tuple[str, ...]) -> Reply:
    """The verdict in a response: soft where there are token probabilities, else read, else not judged and why.

    Without options, the words as they stand.

    Raises pydantic.ValidationError when it is no chat completion.
    """
    body = ChatCompletion.model_validate_json(content)
    choice, counts = body.choices[0], body.usage or Counts()
    usage = Usage(calls=1, read=counts.prompt_tokens, written=counts.completion_tokens)
    if choice.message.refusal is not None or choice.finish_reason == "content_filter":
        why = choice.message.refusal or "the server's content filter"
        return Reply(None, reason=f"refusal: {why[:SHOWN]!r}", said=why, usage=usage)
    text = choice.message.content or ""
    if not options:
        return of_words(text, cut=choice.finish_reason == "length", usage=usage)
    tokens = choice.logprobs.content if choice.logprobs else None
    written = [
        (one.token, {a.token: math.exp(a.logprob) for a in (*one.top_logprobs, one)})
        for one in tokens or ()
        if one.top_logprobs
    ]
    return of_tokens(written, options, text, usage) or of_text(text, options, usage)
