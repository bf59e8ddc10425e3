"""Critique and revision, round after round (Bai et al. 2022, section 3.1).

1. Each round takes a principle drawn at random, asks what is wrong with the answer by it, and asks for a better answer.
2. The next round goes on from the revision, by another principle.
3. Nothing is guessed. A critique or revision that was refused, empty, cut at its limit or never came ends the answer's
   rounds, with the reason: what is left is no demonstration.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tutelage.judge.asking import Ask, Judge, Reply
from tutelage.judge.compare import as_long_as
from tutelage.judge.constitution import Constitution, ConstitutionConfig, Principle, critique_ask, revision_ask
from tutelage.records import Annotator, Completion, Demonstration, Prompt, Source, content_id


@dataclass(frozen=True)
class Revision:
    """What one round made of an answer."""

    principle: Principle
    critique: str
    text: str


@dataclass(frozen=True)
class Revised:
    """An answer and its revisions, one a round."""

    prompt: Prompt
    first: Completion
    revisions: tuple[Revision, ...] = ()
    reason: str = ""
    """Why it was not revised to the end; empty when it was."""

    @property
    def last(self) -> str:
        """The answer as it stands."""
        return self.revisions[-1].text if self.revisions else self.first.text

    def row(self) -> dict[str, object]:
        """One line for people to read."""
        rounds = [{"principle": r.principle.id, "critique": r.critique, "text": r.text} for r in self.revisions]
        asked = self.prompt.messages[-1].content
        return {"prompt": asked, "first": self.first.text, "rounds": rounds, "not_revised": self.reason}


def revise(
    answers: Sequence[Revised],
    critic: Judge,
    constitution: Constitution,
    config: ConstitutionConfig,
    *,
    seed: int,
    going: Callable[[], bool] = lambda: True,
) -> list[Revised]:
    """Every answer after all rounds, or with the reason why not. The critic is also the reviser.

    Once `going` says no, nothing new is asked, and only what needs no further question is given back. Raises JudgeError
    when the critic cannot be asked at all.
    """
    drawn = [constitution.draw(config.rounds, seed, one.prompt.id, one.first.text) for one in answers]
    now = dict(enumerate(answers))
    for number in range(config.rounds):
        by = {i: drawn[i][number] for i, one in now.items() if not one.reason}
        asks = {i: critique_ask(by[i], now[i].prompt, now[i].last, config.room) for i in by}
        critiques = _said(critic, asks, going, now)
        second = {i: revision_ask(by[i], asks[i], text, config.room) for i, text in critiques.items()}
        for i, text in _said(critic, second, going, now).items():
            text = _opening(now[i].first.text) + text.lstrip()
            now[i] = replace(now[i], revisions=(*now[i].revisions, Revision(by[i], critiques[i], text)))
    return list(now.values())


def _said(critic: Judge, asks: Mapping[int, Ask], going: Callable[[], bool], now: dict[int, Revised]) -> dict[int, str]:
    """The words of every answer; what was not answered is given its reason, what was not asked any more is dropped."""
    places = list(asks)
    replies = {places[n]: reply for n, reply in critic.choose(as_long_as(going, asks.values()))}
    for i in places:
        if i not in replies:
            del now[i]
        elif why := _unfit(replies[i]):
            now[i] = replace(now[i], reason=why)
    return {i: reply.said for i, reply in replies.items() if not _unfit(reply)}


def _opening(text: str) -> str:
    """The white space an answer begins with: what goes on from a bare text needs it, and critics leave it out."""
    return text[: len(text) - len(text.lstrip())]


def _unfit(reply: Reply) -> str:
    if reply.probabilities is None:
        return reply.reason
    return "cut: an answer that ran into constitution.room" if reply.cut else ""


def author(critic: Judge, constitution: Constitution, principle: Principle, number: int) -> Annotator:
    """Who a revision is by: critic, constitution, principle and round (from 1). It stands in every lineage."""
    who = content_id("critic", critic.identity, constitution.version, principle.id, str(number))
    name = f"{critic.name} (constitution {constitution.version}, {principle.id}, round {number})"
    return Annotator(id=who, kind="model", name=name)


def demonstrations(
    revised: Revised, critic: Judge, constitution: Constitution, config: ConstitutionConfig
) -> list[Demonstration]:
    """The revisions to imitate: the last, or all of them. None of an answer that was not revised to the end."""
    if revised.reason:
        return []
    made = []
    for number, one in enumerate(revised.revisions, 1):
        who = author(critic, constitution, one.principle, number)
        name = content_id("revision", who.id, revised.prompt.id, revised.first.text, one.text)
        made.append(Demonstration(id=name, prompt=revised.prompt, text=one.text, annotator=who))
    return made if config.keep == "all" else made[-1:]


def completions(revised: Revised, critic: Judge, constitution: Constitution, run: str) -> tuple[Completion, ...]:
    """The answer and its revisions, each with its round and how it came to be."""
    made = [revised.first]
    for number, one in enumerate(revised.revisions, 1):
        how = {"principle": one.principle.id, "constitution": constitution.version}
        source = Source(model=critic.name, run=run, round=number, sampling=how)
        made.append(Completion(text=one.text, source=source))
    return tuple(made)
