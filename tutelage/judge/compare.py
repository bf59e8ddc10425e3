"""Pairs judged by models: each judge asked in both orders, a panel's soft labels averaged, `Comparison`s as people's.

1. Both orders, averaged (Lee et al. 2023, section 2.1.1): a leaning to the first place raises the first text's
   probability in one order and lowers it in the other, so the mean is rid of it. What it was stays on record.
2. Soft labels (Lee et al. 2023, section 2.1): the probability of "A" against "B", not the letter that was written.
3. A panel is the mean of its judges' soft labels; how far they are apart stays on record.
4. Nothing is guessed. A pair of which an order was not answered is not judged by that judge; a pair that no judge of
   the panel judged gets no label, and the reasons are kept.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Literal

import numpy as np
from pydantic import Field

from tutelage.config import Section
from tutelage.errors import DataError
from tutelage.judge.asking import Ask, Judge, Reply, Usage
from tutelage.judge.endpoint import EndpointConfig
from tutelage.judge.rubric import Rubric, pair_ask
from tutelage.questions import Question
from tutelage.records import Annotator, Comparison, content_id

TOGETHER = 256  # pairs put to one judge of a panel before they are put to the next


class JudgeConfig(Section):
    """AI judges and how they are asked."""

    panel: tuple[str, ...] = ()
    """Who judges: models by name or folder, endpoints as URL#model. Several are a panel."""
    rubric: str = "helpful"
    """What the better answer is: helpful, harmless, summary, or a Markdown file of your own."""
    least_mass: float = Field(default=0.02, ge=0, le=1)
    """A judge whose answer is one of the options with less than this probability has not judged."""
    ungraded: Literal["stop", "lowest"] = "stop"
    """Where a judge is the reward: what it does not grade ends the run, or gets the lowest grade."""
    endpoint: EndpointConfig = EndpointConfig()


@dataclass(frozen=True)
class Verdict:
    """What one judge, or a panel's mean, says of one pair."""

    judge: str
    forward: float | None
    """P(the first completion is better) when it stands first; None when that was not judged."""
    backward: float | None
    """The same probability when the first completion stands second."""
    reasons: tuple[str, ...]
    """Why an order was not judged."""
    soft: bool
    """From token probabilities, not from letters."""

    @property
    def preference(self) -> float | None:
        """P(the first completion is better), both orders averaged; None when either was not judged."""
        if self.forward is None or self.backward is None:
            return None
        return (self.forward + self.backward) / 2

    @property
    def first_place(self) -> float | None:
        """Mean preference for whatever stood first: 0.5 is no position bias."""
        if self.forward is None or self.backward is None:
            return None
        return (self.forward + 1 - self.backward) / 2

    @property
    def consistent(self) -> bool:
        """Both orders favour the same completion, or neither order favours any."""
        if self.forward is None or self.backward is None:
            return False
        return bool(np.sign(self.forward - 0.5) == np.sign(self.backward - 0.5))


@dataclass(frozen=True)
class Judged:
    """A pair and what the panel said of it."""

    question: Question
    """Of two completions."""
    verdicts: tuple[Verdict, ...]
    """One a judge, in the panel's order."""
    usage: Usage

    @property
    def together(self) -> Verdict:
        """The mean of the judges who judged, order by order."""
        heard = [v for v in self.verdicts if v.preference is not None]
        name = " + ".join(v.judge for v in self.verdicts)
        if not heard:
            return Verdict(name, None, None, tuple(r for v in self.verdicts for r in v.reasons), soft=False)
        forward, backward = [v.forward or 0.0 for v in heard], [v.backward or 0.0 for v in heard]
        return Verdict(name, float(np.mean(forward)), float(np.mean(backward)), (), soft=all(v.soft for v in heard))

    @property
    def disagreement(self) -> float:
        """Standard deviation of the judges' preferences; 0 for one judge."""
        heard = [v.preference for v in self.verdicts if v.preference is not None]
        return float(np.std(heard)) if heard else 0.0

    def row(self) -> dict[str, object]:
        """One line for people to read, with every order of every judge."""
        question, both = self.question, self.together
        verdicts = [
            {"judge": v.judge, "forward": v.forward, "backward": v.backward, "soft": v.soft, "reasons": v.reasons}
            for v in self.verdicts
        ]
        return {
            "prompt": question.prompt.messages[-1].content,
            "first": question.completions[0].text,
            "second": question.completions[1].text,
            "preference": both.preference,
            "first_place": both.first_place,
            "disagreement": self.disagreement,
            "verdicts": verdicts,
        }


def pairs(question: Question) -> Iterator[Question]:
    """Every two completions of a question as a question of their own."""
    for two in combinations(question.completions, 2):
        yield Question(prompt=question.prompt, completions=two)


def judge_pairs(
    questions: Iterable[Question],
    panel: Sequence[Judge],
    rubric: Rubric,
    *,
    least_mass: float = JudgeConfig().least_mass,
    going: Callable[[], bool] = lambda: True,
) -> Iterator[Judged]:
    """Put every pair to every judge of the panel, in both orders. Yields each pair once the last judge has judged it.

    Once `going` says no, nothing new is asked; what was already asked is waited for, and pairs that were answered by
    the whole panel are yielded. Raises DataError for a question that is no pair, JudgeError when a judge cannot answer.
    """
    posed = ((question, rubric) for question in questions)
    return (judged for _, judged in judge_posed(posed, panel, least_mass=least_mass, going=going))


def judge_posed(
    posed: Iterable[tuple[Question, Rubric]], panel: Sequence[Judge], *, least_mass: float, going: Callable[[], bool]
) -> Iterator[tuple[int, Judged]]:
    """`judge_pairs` with a rubric for each pair; yields each with its place among those posed."""
    source, before = iter(posed), 0
    while going() and (chunk := list(islice(source, TOGETHER))):
        asks = [ask for question, rubric in chunk for ask in _both_orders(rubric, question)]
        heard = [dict(judge.choose(as_long_as(going, asks))) for judge in panel[:-1]]
        last: dict[int, Reply] = {}
        for place, reply in panel[-1].choose(as_long_as(going, asks)):
            last[place] = reply
            i = place // 2
            both = [(said[2 * i], said[2 * i + 1]) for said in (*heard, last) if {2 * i, 2 * i + 1} <= said.keys()]
            if len(both) == len(panel):
                verdicts = [_verdict(j.name, *r, least_mass) for j, r in zip(panel, both, strict=True)]
                yield (
                    before + i,
                    Judged(chunk[i][0], tuple(verdicts), summed(one.usage for pair in both for one in pair)),
                )
        before += len(chunk)


def annotator_of(panel: Sequence[Judge], rubric: Rubric) -> Annotator:
    """Who a panel is: the same judges with the same rubric are the same annotator."""
    names = " + ".join(judge.name for judge in panel)
    identities = sorted(judge.identity for judge in panel)
    who = content_id("judges", rubric.text, *identities)
    return Annotator(id=who, kind="model", name=f"{names} ({rubric.name})")


def comparison_of(judged: Judged, annotator: Annotator, rubric: Rubric) -> Comparison | None:
    """The label: ranks by the mean preference, which is its soft target. None when nobody judged.

    Flags say where to look twice: `orders disagree` (each order favours another text), `judges disagree`.
    """
    both = judged.together
    if both.preference is None:
        return None
    favoured = {np.sign(v.preference - 0.5) for v in judged.verdicts if v.preference is not None}
    flags = [] if both.consistent else ["orders disagree"]
    flags += ["judges disagree"] if len(favoured) > 1 else []
    ahead = float(np.sign(both.preference - 0.5))
    ids = [completion.id for completion in judged.question.completions]
    return Comparison(
        id=content_id("judged", annotator.id, judged.question.prompt.id, *ids),
        prompt=judged.question.prompt,
        completions=judged.question.completions,
        ranks={1.0: (1, 2), -1.0: (2, 1), 0.0: (1, 1)}[ahead],
        shown=(0, 1),
        annotator=annotator,
        target=both.preference,
        flags=tuple(flags),
        guideline=rubric.version,
    )


def _both_orders(rubric: Rubric, question: Question) -> tuple[Ask, Ask]:
    if len(question.completions) != 2:
        raise DataError(f"a question of {len(question.completions)} completions is no pair: take it apart by `pairs`")
    a, b = (completion.text for completion in question.completions)
    return pair_ask(rubric, question.prompt, a, b), pair_ask(rubric, question.prompt, b, a)


def as_long_as(going: Callable[[], bool], asks: Iterable[Ask]) -> Iterator[Ask]:
    """The questions until `going` says no."""
    for ask in asks:
        if not going():
            return
        yield ask


def _verdict(name: str, forward: Reply, backward: Reply, least_mass: float) -> Verdict:
    (one, why), (other, why_not) = (heard(reply, least_mass) for reply in (forward, backward))
    return Verdict(
        judge=name,
        forward=one[0] if one else None,
        backward=other[1] if other else None,
        reasons=tuple(reason for reason in (why, why_not) if reason),
        soft=forward.soft and backward.soft,
    )


def heard(reply: Reply, least_mass: float) -> tuple[tuple[float, ...] | None, str]:
    """The probabilities of a reply, or None and why: a judge who hardly ever names an option has not judged."""
    if reply.probabilities is not None and reply.mass < least_mass:
        said = f", it said {reply.said!r}" if reply.said else ""
        return None, f"off the form: names an option with probability {reply.mass:.2g}{said}"
    return reply.probabilities, reply.reason


def summed(usages: Iterable[Usage]) -> Usage:
    """What several answers cost together."""
    found = list(usages)
    return Usage(sum(u.calls for u in found), sum(u.read for u in found), sum(u.written for u in found))
