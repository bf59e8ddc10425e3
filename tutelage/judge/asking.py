"""The seam between a question with a few possible answers and how likely each answer is: one verb, `choose`.

A question without options is open: the answer is words of the judge's own, as critics and revisers need them.

Implementations: `local.LocalJudge` (any model we load), `endpoint.Endpoint` (any OpenAI-compatible server),
`scripted.ScriptedJudge` (the fake), and `memory.Remembered`, which asks one of them nothing twice.

A judge never guesses. What it could not or would not answer comes back without probabilities and with a reason.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from tutelage.records import Message


@dataclass(frozen=True)
class Ask:
    """One question to a judge."""

    messages: tuple[Message, ...]
    options: tuple[str, ...]
    """What it may answer; no two alike. None of them: an open question."""
    texts: tuple[str, ...]
    """The texts judged, in the order shown: for the fake, and for people who read along. Real judges see `messages`."""
    room: int = 0
    """The most tokens of the answer to an open question; the judge's own limit holds for all others."""


@dataclass(frozen=True)
class Usage:
    """What an answer cost, all tries together."""

    calls: int = 0
    read: int = 0
    """Tokens of the questions, as the server counts them."""
    written: int = 0
    """Tokens of the answers."""


@dataclass(frozen=True)
class Reply:
    """What a judge said."""

    probabilities: tuple[float, ...] | None
    """Of each option, summing to 1; empty where an open question was answered; None when it was not judged."""
    reason: str = ""
    """Why it was not judged: a kind, and after a colon the details. Empty when it was."""
    mass: float = 1.0
    """The probability, before the options were made to sum to 1, that the judge's answer is one of them."""
    soft: bool = True
    """From token probabilities. False: the answer was read as text and is taken as certain."""
    said: str = ""
    """The answer's text, where there is one."""
    cut: bool = False
    """The answer to an open question ran into its limit."""
    usage: Usage = Usage()
    final: bool = True
    """Whether asking again would bring nothing new; an endpoint that could not be reached is asked again."""


class Judge(Protocol):
    """Answers questions."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def identity(self) -> str:
        """Everything that an answer depends on beside the question: the same identity gives the same answers."""

    def choose(self, asks: Iterable[Ask]) -> Iterator[tuple[int, Reply]]:
        """The reply to each question, with its place among the questions, in the order in which they come in.

        Questions are taken as they are needed: when they end early, those already taken are still answered.
        Raises JudgeError when the judge cannot be asked at all.
        """
