"""The nouns of work: a batch says what to ask, an item is one question of it, an answer is what a rater said.

What crosses to a browser or comes from it (`BatchSpec`, the answers) is a record; what `Desk` hands to pages is a
frozen dataclass without a completion's source, so that no model's name can reach a page.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from tutelage.records import Completion, Message, Prompt, Record

Kind = Literal["demonstration", "comparison", "ranking", "rating", "edit", "versus", "chat"]
State = Literal["open", "paused", "closed"]
Purpose = Literal["ask", "gold", "repeat"]
Arm = Literal["random", "active"]
Standing = Literal["wanted", "extra", "adjudication"]
Reason = Literal[
    "finished",  # every item has its answers
    "leased",  # others hold what is left, until a moment
    "done",  # what is left was answered or skipped by this rater
    "deadline",  # passed
    "paused",  # or closed, by a lead
    "onboarding",  # a test is to be passed first: `batch` names it
    "failed",  # the onboarding test was not passed
    "nothing",  # no batch is open to this rater
]
LONGEST_TEXT = 200_000  # characters of an answer, a draft or a remark
Flag = Annotated[str, StringConstraints(min_length=1, max_length=80)]
LongText = Annotated[str, StringConstraints(max_length=LONGEST_TEXT)]
K: dict[Kind, tuple[int, int]] = {  # fewest and most completions of an item
    "demonstration": (0, 0),
    "comparison": (2, 2),
    "ranking": (2, 9),
    "rating": (1, 1),
    "edit": (1, 1),
    "versus": (2, 2),
    "chat": (0, 0),
}


class Ranked(Record):
    """A comparison, a ranking, a blind A/B, or the choice of a turn of chat."""

    type: Literal["ranked"] = "ranked"
    ranks: tuple[Annotated[int, Field(ge=1, le=9)], ...] = Field(min_length=2, max_length=9)
    """Rank of the completion at each place on the screen, in the order shown: 1 is best, equal ranks are ties."""
    strength: Annotated[int, Field(ge=1, le=4)] | None = None
    """How clear the preference was: 1 barely, 4 far better; for pairs."""
    flags: tuple[Flag, ...] = Field(default=(), max_length=20)


class Rated(Record):
    """A completion on InstructGPT's 1 to 7 scale."""

    type: Literal["rated"] = "rated"
    score: Annotated[int, Field(ge=1, le=7)]
    flags: tuple[Flag, ...] = Field(default=(), max_length=20)


class Written(Record):
    """A demonstration, or the edited text of a completion."""

    type: Literal["written"] = "written"
    text: Annotated[LongText, StringConstraints(min_length=1)]
    flags: tuple[Flag, ...] = Field(default=(), max_length=20)


Answer = Annotated[Ranked | Rated | Written, Field(discriminator="type")]
TAKES: dict[Kind, str] = {  # the type of answer to each kind of work; chat is answered turn by turn
    "demonstration": "written",
    "comparison": "ranked",
    "ranking": "ranked",
    "rating": "rated",
    "edit": "written",
    "versus": "ranked",
    "chat": "ranked",
}


class BatchSpec(Record):
    """What a batch asks, of whom, and how often."""

    name: str = Field(min_length=1, max_length=200)
    kind: Kind
    overlap: int = Field(default=3, ge=1, le=20)
    """Answers wanted of the items in the overlap; of all others one."""
    overlap_share: float = Field(default=0.12, ge=0, le=1)
    """Share of the items, drawn at random, that `overlap` people answer."""
    most_answers: int = Field(default=5, ge=1, le=20)
    """Where answers disagree without a majority, one more is asked for, up to this many."""
    gold_share: float = Field(default=0.04, ge=0, le=0.5)
    """Share of a rater's tasks that are gold items, as long as the batch has gold that they have not seen."""
    repeat_share: float = Field(default=0.02, ge=0, le=0.5)
    """Share of a rater's tasks that repeat one they answered before, with the sides swapped."""
    random_share: float = Field(default=0.25, ge=0, le=1)
    """Under active selection, the share of items whose place in the queue stays random."""
    lease_seconds: float = Field(default=900.0, ge=10, le=86_400)
    """How long an item is kept for a rater; renewed while the tab is used."""
    guideline: str | None = None
    """Id of the guideline that stands beside the task."""
    deadline: datetime | None = None
    """With a time zone. After it nothing is handed out; what was handed out is still taken."""
    raters: tuple[str, ...] | None = None
    """Ids of the users who may answer; without it, every rater."""
    onboarding: str | None = None
    """Id of the batch that a rater has to pass before this one."""
    pass_mark: float | None = Field(default=None, ge=0, le=1)
    """This batch is an onboarding test of gold items: the mean score to reach over all of them."""
    turns: int = Field(default=6, ge=1, le=50)
    """Most turns of a conversation, for chat."""
    round: int | None = Field(default=None, ge=0)
    """Round of the project that the labels are for."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.most_answers < self.overlap:
            raise ValueError(f"most_answers {self.most_answers} is less than overlap {self.overlap}: raise it")
        if self.deadline is not None and self.deadline.tzinfo is None:
            raise ValueError(f"the deadline {self.deadline} has no time zone: add one, such as +00:00")
        if self.pass_mark is not None and self.onboarding is not None:
            raise ValueError("a batch with a pass mark is an onboarding test itself: leave out onboarding")
        if self.gold_share + self.repeat_share > 0.5:
            raise ValueError(f"gold and repeats are {self.gold_share + self.repeat_share:.0%} of the work: at most 50%")
        return self


@lru_cache(maxsize=256)
def spec_of(body: str) -> BatchSpec:
    """A batch's spec from its JSON; one request after another asks for the same one."""
    return BatchSpec.model_validate_json(body)


class NewItem(Record):
    """A question to be asked: to open a batch with."""

    prompt: Prompt
    completions: tuple[Completion, ...] = Field(default=(), max_length=9)
    gold: Answer | None = None
    """The known answer, as if the completions had been shown in the order they stand in here."""
    priority: float | None = None
    """How much an answer would teach, for active selection: higher is asked earlier."""


@dataclass(frozen=True)
class Batch:
    """A batch as it lies in the database."""

    id: str
    spec: BatchSpec
    state: State
    created: str
    author: str | None


@dataclass(frozen=True)
class Held:
    """An item in a rater's hands. `texts` are in the order shown; nothing here says who wrote them."""

    id: str
    """Of the item: what submit, renew, draft, skip and flag take."""
    batch: str
    kind: Kind
    messages: tuple[Message, ...]
    texts: tuple[str, ...]
    until: float
    """When the lease ends, in seconds since 1970."""
    guideline: str | None
    draft: str | None
    """What `draft` kept last, as JSON."""
    answer: Ranked | Rated | Written | None
    """What the rater answered last, when they have, with ranks by place as it was shown to them."""
    revision: int
    """Of that answer; 0 when there is none."""
    standing: bool
    """Whether that answer counts: False where there is none, and where it was taken back to be given again."""


@dataclass(frozen=True)
class Nothing:
    """No item now, and why not."""

    reason: Reason
    until: float | None = None
    """For `leased`: when the first of the leases ends, in seconds since 1970."""
    batch: str | None = None
    """The batch it is about: for `onboarding` the test."""


@dataclass(frozen=True)
class Receipt:
    """An answer that is in the database, as its rater is told: not which records it became, for checks become none."""

    id: str
    item: str
    batch: str
    revision: int
    role: Standing
    """`extra`: it came after the lease had ended and somebody else had the place; it is kept as a label too."""
    again: bool
    """True when this very submission was already there, so that nothing was stored."""


@dataclass(frozen=True)
class Saved(Receipt):
    """An answer that is in the database, with what raters are not told."""

    labels: tuple[str, ...]
    """Ids of the records it became; none for checks (gold and repeats), which are never trained on."""


@dataclass(frozen=True)
class Recent:
    """One of a rater's own answers, to look at and to correct."""

    item: str
    batch: str
    batch_name: str
    kind: Kind
    messages: tuple[Message, ...]
    texts: tuple[str, ...]
    answer: Ranked | Rated | Written
    """Of a conversation the last choice, which cannot be changed: what was said after it rests on it."""
    revision: int
    turns: int
    """Choices of a conversation; 0 of all other work."""
    seconds: float | None
    created: str


@dataclass(frozen=True)
class Offer:
    """A batch on a rater's home page: what there is to do, or why there is nothing."""

    batch: str
    name: str
    kind: Kind
    answered: int
    """Items this rater has answered, checks included."""
    left: int
    """Items that still want answers, from anybody."""
    deadline: datetime | None
    nothing: Nothing | None
    """Why there is nothing for this rater; None when there is an item."""


def in_order(answer: Ranked | Rated | Written, shown: tuple[int, ...]) -> Ranked | Rated | Written:
    """The answer with ranks in the item's own order, from ranks by place; `shown[j]` stands at place j."""
    if not isinstance(answer, Ranked):
        return answer
    ranks = dict(zip(shown, answer.ranks, strict=True))
    return answer.model_copy(update={"ranks": tuple(ranks[i] for i in range(len(shown)))})


def by_place(answer: Ranked | Rated | Written, shown: tuple[int, ...]) -> Ranked | Rated | Written:
    """The answer with ranks by place on the screen, from ranks in the item's own order."""
    if not isinstance(answer, Ranked):
        return answer
    return answer.model_copy(update={"ranks": tuple(answer.ranks[i] for i in shown)})
