"""Pairs compared by principles: several drawn for each pair, their soft labels clamped and averaged (Bai et al. 2022).

1. A pair gets `ensemble` principles; its label is the mean over them (section 4.1), each asked in both orders as in
   `compare`. The paper draws one for each label and so averages over labels; here each label is the average.
2. With chain of thought the judge thinks aloud first, and what it then says is sure of itself, so its probabilities are
   clamped to 0.4 to 0.6 (section 4.1). What is clamped is each order's probability, before any mean.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from tutelage.judge.asking import Ask, Judge, Reply
from tutelage.judge.compare import TOGETHER, Judged, Verdict, judge_posed, summed
from tutelage.judge.constitution import Constitution, ConstitutionConfig, Principle
from tutelage.questions import Question
from tutelage.records import Annotator, Message, content_id

WEIGH = "Do not reply with a letter yet. Think it through first: say in a few sentences what speaks for each answer."
DECIDE = "Which answer is it? Reply with one letter and nothing else: "


def principles_of(constitution: Constitution, question: Question, ensemble: int, seed: int) -> tuple[Principle, ...]:
    """The principles a pair is compared by: `ensemble`, or all where there are no more."""
    count = min(ensemble, len(constitution.principles))
    return constitution.draw(count, seed, question.prompt.id, *(one.text for one in question.completions))


def judge_by_principles(
    questions: Iterable[Question],
    panel: Sequence[Judge],
    constitution: Constitution,
    config: ConstitutionConfig,
    *,
    seed: int,
    least_mass: float,
    going: Callable[[], bool] = lambda: True,
) -> Iterator[Judged]:
    """Put every pair to every judge by each of its principles, in both orders: a verdict for each judge and principle.

    A principle by which nothing was answered has no say. `going` and errors are as in `judge_pairs`.
    """
    asked = list(questions)
    drawn = [principles_of(constitution, question, config.ensemble, seed) for question in asked]
    posed = [(place, by) for place, principles in enumerate(drawn) for by in principles]
    judges = [Thinking(judge, config.room) for judge in panel] if config.think else panel
    pairs = ((asked[place], by.rubric) for place, by in posed)
    parts: dict[int, dict[int, Judged]] = {}
    for number, one in judge_posed(pairs, judges, least_mass=least_mass, going=going):
        place, _ = posed[number]
        mine = parts.setdefault(place, {})
        mine[number] = one
        if len(mine) == len(drawn[place]):
            del parts[place]
            verdicts = [_by(v, posed[n][1], config.bound) for n in sorted(mine) for v in mine[n].verdicts]
            yield Judged(asked[place], tuple(verdicts), summed(part.usage for part in mine.values()))


def annotator_by_principles(
    panel: Sequence[Judge], constitution: Constitution, config: ConstitutionConfig, seed: int
) -> Annotator:
    """Who compares: the same judges, constitution, settings and draw are the same annotator."""
    names = " + ".join(judge.name for judge in panel)
    how = f"{config.ensemble} {config.think} {config.room if config.think else 0} {config.bound} {seed}"
    who = content_id("principles", constitution.version, how, *sorted(judge.identity for judge in panel))
    count = min(config.ensemble, len(constitution.principles))
    return Annotator(id=who, kind="model", name=f"{names} (constitution {constitution.version}, {count} principles)")


def _by(verdict: Verdict, principle: Principle, bound: float) -> Verdict:
    """A verdict clamped, with the principle behind the judge's name."""
    forward, backward = (
        None if p is None else min(max(p, bound), 1 - bound) for p in (verdict.forward, verdict.backward)
    )
    return replace(verdict, judge=f"{verdict.judge}, {principle.id}", forward=forward, backward=backward)


@dataclass(frozen=True)
class Thinking:
    """A judge that thinks aloud before it chooses: an open question first, then the choice behind its answer."""

    judge: Judge
    room: int
    """Most tokens of the thoughts."""

    @property
    def name(self) -> str:
        """The judge's."""
        return self.judge.name

    @property
    def identity(self) -> str:
        """The judge's, and how long it may think."""
        return f"{self.judge.identity} thinking {self.room}"

    def choose(self, asks: Iterable[Ask]) -> Iterator[tuple[int, Reply]]:
        """See `Judge.choose`. Without thoughts there is no choice."""
        source = enumerate(asks)
        while part := dict(islice(source, TOGETHER)):
            places = list(part)
            weighing = {i: _weighed(ask, self.room) for i, ask in part.items()}
            thoughts = {places[n]: reply for n, reply in self.judge.choose(weighing.values())}
            heard = [i for i in places if thoughts[i].probabilities is not None]
            yield from ((i, thoughts[i]) for i in places if i not in heard)
            deciding = [_decided(part[i], weighing[i], thoughts[i].said) for i in heard]
            for n, reply in self.judge.choose(deciding):
                usage = summed((thoughts[heard[n]].usage, reply.usage))
                yield heard[n], replace(reply, usage=usage)


def _weighed(ask: Ask, room: int) -> Ask:
    *before, last = ask.messages
    asked = Message(role=last.role, content=f"{last.content}\n\n{WEIGH}")
    return Ask((*before, asked), (), ask.texts, room)


def _decided(ask: Ask, weighing: Ask, thoughts: str) -> Ask:
    now = Message(role="user", content=f"{DECIDE}{' or '.join(ask.options)}.")
    return Ask((*weighing.messages, Message(role="assistant", content=thoughts), now), ask.options, ask.texts)
