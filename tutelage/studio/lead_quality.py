"""How good the labels are, for leads: the figures of `tutelage quality` with pictures, of a batch or of all."""

import math
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from tutelage.feedback.oversight import Oversight
from tutelage.feedback.people import User
from tutelage.quality.summary import Models, Quality, RaterDrift, RaterQuality, summarise
from tutelage.studio import figures
from tutelage.studio.annotate import translator
from tutelage.studio.auth import Lead
from tutelage.studio.lead_view import Figure, money, named, seconds, share
from tutelage.studio.lead_words import FIGURES
from tutelage.studio.room import Room, TheRoom
from tutelage.studio.words import Translate

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class RaterRow:
    """One rater's figures."""

    name: str
    labels: int
    ability: Figure
    agreement: Figure
    gold: Figure
    again: Figure
    pace: Figure
    cost: str
    first_shown: Figure
    longer: Figure
    ties: Figure


@dataclass(frozen=True)
class DriftRow:
    """A figure that moved between two rounds."""

    name: str
    before: str
    after: str
    figure: str
    change: str


@router.get("/lead/quality")
def quality(request: Request, user: Lead, room: TheRoom, batch: str = "") -> Response:
    """Agreement, ability, leanings, pace, cost and drift."""
    people = {one.id: one for one in room.people.all()}
    found = measured(room, batch or None, people)
    rounds = [(p.name, p.agreement) for p in found.periods if p.agreement is not None]
    translate = translator(room, request)
    return room.page(
        request,
        "lead-quality.html",
        batches=room.batches.all(),
        batch=batch,
        found=found,
        agreement=share(found.agreement),
        alpha=_alpha(found),
        overlap=share(found.overlap),
        pace=seconds(found.all.seconds, 2 * found.all.seconds.median if found.all.seconds else 1.0),
        cost=money(found.all.cost),
        first_shown=share(found.all.first_shown, middle=0.5),
        longer=share(found.all.longer, middle=0.5),
        ties=share(found.all.ties),
        raters=_rater_rows(found, people),
        models=_model_rows(found.models) if found.models is not None else [],
        periods=[(p, share(p.agreement), share(p.habits.first_shown, middle=0.5)) for p in found.periods],
        steps=figures.steps(rounds, translate("Agreement from round to round")) if len(rounds) > 1 else "",
        drift=[_drift_row(one, people, translate) for one in found.drift if one.moved.clear],
    )


def measured(room: Room, batch: str | None, people: dict[str, User]) -> Quality:
    """The quality of a batch's labels or of all, periods being the batches."""
    oversight, store = Oversight(room.store), room.store
    wages = {one.id: one.hourly_cost for one in people.values() if one.hourly_cost is not None}
    checks = {who: (work.gold, work.repeats) for who, work in oversight.work(batch).items()}
    if batch is None:
        every = list(store.comparisons()), list(store.ratings())
        return summarise(*every, wages=wages, rounds=oversight.periods() or None, checks=checks)
    labels = oversight.labels(room.batches.find(batch).id)
    comparisons = store.comparisons_at(store.numbers_of("comparisons", labels))
    ratings = store.ratings_at(store.numbers_of("ratings", labels))
    return summarise(comparisons, ratings, wages=wages, checks=checks)


def _alpha(found: Quality) -> Figure:
    alpha = found.alpha or found.rating_alpha
    if alpha is None:
        return Figure("–")
    text = f"{alpha.alpha:.2f} [{alpha.low:.2f}, {alpha.high:.2f}] n {alpha.n:,}"
    return Figure(text, figures.whisker(max(0.0, alpha.low), alpha.alpha, alpha.high))


def _model_rows(models: Models) -> list[tuple[str, Figure, str]]:
    """Each model with how often it was put above another, and its strength; the strongest first."""
    by_strength = sorted(zip(models.fitted.strengths, models.names, models.wins, strict=True), reverse=True)
    return [(name, share(wins, middle=0.5), f"{strength:+.2f}") for strength, name, wins in by_strength]


def _rater_rows(found: Quality, people: dict[str, User]) -> list[RaterRow]:
    ends = [r.habits.seconds.high for r in found.raters if r.habits.seconds is not None]
    end = max((high for high in ends if math.isfinite(high)), default=1.0)
    return [_rater_row(one, people, end) for one in found.raters]


def _rater_row(one: RaterQuality, people: dict[str, User], end: float) -> RaterRow:
    known: Any = named(one.rater.id, people)
    return RaterRow(
        name=one.rater.name if known == one.rater.id else known,
        labels=one.habits.labels,
        ability=share(one.ability),
        agreement=share(one.agreement),
        gold=share(one.gold),
        again=share(one.steadiness),
        pace=seconds(one.habits.seconds, end),
        cost=money(one.habits.cost),
        first_shown=share(one.habits.first_shown, middle=0.5),
        longer=share(one.habits.longer, middle=0.5),
        ties=share(one.habits.ties),
    )


def _drift_row(one: RaterDrift, people: dict[str, User], translate: Translate) -> DriftRow:
    change = one.moved.change
    return DriftRow(
        name=translate("everybody") if one.rater is None else named(one.rater, people),
        before=one.before,
        after=one.after,
        figure=translate(FIGURES[one.moved.figure]),
        change=f"{100 * change.mean:+.0f} [{100 * change.low:+.0f}, {100 * change.high:+.0f}] n {change.n:,}",
    )
