"""The nouns of the project. A record is the HTTP body, the JSONL line and the database row: one type for all three.

Text lives here; tensors live in `tutelage.model.batch`. Everything is frozen, and an unknown field is an error.
"""

import hashlib
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["text", "system", "user", "assistant"]
Split = Literal["train", "evaluation"]
Finish = Literal["stop", "length"]
EVALUATION_PER_MILLE = 200


class Record(BaseModel):
    """A frozen record; extra fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def new_id() -> str:
    """A random identifier: 32 hexadecimal digits."""
    return uuid4().hex


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


def content_id(*parts: str) -> str:
    """A 32-digit identifier of content: the same parts always give the same one."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:32]


def split_of(prompt_id: str) -> Split:
    """The side of the train/evaluation border a prompt is on, for ever, wherever it comes from."""
    draw = int(hashlib.sha256(f"split:{prompt_id}".encode()).hexdigest()[:8], 16) % 1000
    return "evaluation" if draw < EVALUATION_PER_MILLE else "train"


class Message(Record):
    """One turn. Role `text` means: no chat template, continue this text as it stands."""

    role: Role
    content: str


class Prompt(Record):
    """What is asked. Its identity is its content, so the same prompt imported twice is one prompt."""

    messages: tuple[Message, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _text_stands_alone(self) -> Self:
        if any(m.role == "text" for m in self.messages) and len(self.messages) > 1:
            raise ValueError(f"a prompt of role 'text' stands alone, but this one has {len(self.messages)} messages")
        return self

    @classmethod
    def text(cls, text: str) -> "Prompt":
        """A prompt that is continued as it stands, without a chat template."""
        return cls(messages=(Message(role="text", content=text),))

    @classmethod
    def user(cls, content: str) -> "Prompt":
        """A prompt of one user turn."""
        return cls(messages=(Message(role="user", content=content),))

    @property
    def id(self) -> str:
        """32 hexadecimal digits of the content's hash."""
        return content_id(*(part for m in self.messages for part in (m.role, m.content)))

    @property
    def split(self) -> Split:
        """`train` or `evaluation`, from the hash alone (200 in 1,000 are for evaluation)."""
        return split_of(self.id)


class Source(Record):
    """How a completion was made."""

    model: str
    """Name or folder of the model, or `file` for imported text."""
    checkpoint: str | None = None
    """Hash of the weights."""
    run: str | None = None
    round: int | None = None
    step: int | None = None
    """The policy step that sampled it."""
    seed: int | None = None
    sampling: dict[str, Any] = Field(default_factory=dict)


class Completion(Record):
    """One answer to a prompt."""

    id: str = Field(default_factory=new_id)
    text: str
    finish: Finish = "stop"
    """`stop`: the model ended it; `length`: it was cut at the limit."""
    source: Source


class Annotator(Record):
    """Who judges: a person, a model, or a simulation. Only this field tells them apart."""

    id: str
    kind: Literal["human", "model", "simulated"]
    name: str


class Demonstration(Record):
    """An answer written by somebody, to be imitated."""

    id: str = Field(default_factory=new_id)
    prompt: Prompt
    text: str
    annotator: Annotator
    created: datetime = Field(default_factory=now)


class Comparison(Record):
    """Two to nine completions of one prompt, ranked. Pairs, K-way rankings and ties are all this one record.

    `ranks[i]` is the place of `completions[i]`: 1 is best, equal ranks are ties. `shown[j]` is the index of the
    completion that stood at place j on the screen.
    """

    id: str = Field(default_factory=new_id)
    prompt: Prompt
    completions: tuple[Completion, ...] = Field(min_length=2, max_length=9)
    ranks: tuple[Annotated[int, Field(ge=1)], ...]
    shown: tuple[int, ...]
    annotator: Annotator
    strength: Annotated[int, Field(ge=1, le=4)] | None = None
    """How clear the preference was: 1 barely, 4 far better; for pairs."""
    target: Annotated[float, Field(ge=0, le=1)] | None = None
    """Soft label for pairs: the probability that the first completion is the better one."""
    flags: tuple[str, ...] = ()
    seconds: Annotated[float, Field(ge=0)] | None = None
    """Time taken, in seconds, idle time left out."""
    guideline: str | None = None
    """Version of the guideline the annotator followed."""
    created: datetime = Field(default_factory=now)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        k = len(self.completions)
        if len(self.ranks) != k:
            raise ValueError(f"{k} completions but {len(self.ranks)} ranks: give one rank for each completion")
        if sorted(self.shown) != list(range(k)):
            raise ValueError(f"shown is {list(self.shown)}: it must order the {k} completions, each index once")
        if self.target is not None and k != 2:
            raise ValueError(f"target is for pairs, but there are {k} completions")
        return self

    def reorder(self, order: tuple[int, ...]) -> "Comparison":
        """The same judgement with the completions listed in another order; ranks, shown and target go along."""
        if sorted(order) != list(range(len(self.completions))):
            raise ValueError(f"order {order} is no permutation of {len(self.completions)} completions")
        place = {old: new for new, old in enumerate(order)}
        flipped = self.target is not None and order == (1, 0)
        return self.model_copy(
            update={
                "completions": tuple(self.completions[i] for i in order),
                "ranks": tuple(self.ranks[i] for i in order),
                "shown": tuple(place[i] for i in self.shown),
                "target": 1 - self.target if flipped and self.target is not None else self.target,
            }
        )

    def pairs(self) -> list[tuple[int, int]]:
        """Every pair that is decided, as (index of the better, index of the worse)."""
        k = range(len(self.ranks))
        return [(i, j) for i in k for j in k if self.ranks[i] < self.ranks[j]]

    def ties(self) -> list[tuple[int, int]]:
        """Every tied pair, each once, lower index first."""
        k = len(self.ranks)
        return [(i, j) for i in range(k) for j in range(i + 1, k) if self.ranks[i] == self.ranks[j]]


class Rating(Record):
    """One completion on InstructGPT's 1 to 7 scale, with flags."""

    id: str = Field(default_factory=new_id)
    prompt: Prompt
    completion: Completion
    score: Annotated[int, Field(ge=1, le=7)]
    flags: tuple[str, ...] = ()
    annotator: Annotator
    seconds: Annotated[float, Field(ge=0)] | None = None
    guideline: str | None = None
    created: datetime = Field(default_factory=now)
