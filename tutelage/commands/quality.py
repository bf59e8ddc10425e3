"""How good the labels are: agreement, ability, habits, drift."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Group
from rich.text import Text

from tutelage.commands.flags import Config, Folder, Json
from tutelage.project import Project
from tutelage.records import Split
from tutelage.terminal import Answer, table

if TYPE_CHECKING:
    from tutelage.evaluate.statistics import Rate
    from tutelage.quality.summary import Models, Quality


def prioritise(
    batch: str,
    /,
    *scorers: str,
    project: Folder = Path(),
    config: Config = None,
    json: Json = False,
) -> Answer:
    """Order what is left of a batch by how much an answer would teach: where reward models disagree most.

    A share of the items (`random_share` of the batch) stays where chance put it, so that both ways can be compared.

    Parameters
    ----------
    batch
        Id of the batch: the end of its address in the studio.
    scorers
        Two or more reward runs, trained with other seeds or on other labels.
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    done = Project.open(project, config).prioritise(batch, list(scorers))
    arms = ", ".join(f"{finished} of {items} {arm}" for arm, (items, finished) in done.arms.items())
    text = f"{done.moved} of {done.items} open items put in order by {len(done.scorers)} reward models."
    return Answer(
        f"{text} Finished so far: {arms}.",
        {"batch": done.batch, "items": done.items, "moved": done.moved, "arms": done.arms},
    )


def compare_arms(
    first: str,
    second: str,
    /,
    *,
    project: Folder = Path(),
    config: Config = None,
    json: Json = False,
) -> Answer:
    """Put reward models of the two arms of active selection side by side, on the same held-out pairs.

    Parameters
    ----------
    first
        A reward run trained with `--reward.arm active` or `random`.
    second
        One trained with the other.
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    found = Project.open(project, config).compare_arms([first, second])
    rows = [
        ("active", found.labels["active"], found.arms.active),
        ("random", found.labels["random"], found.arms.random),
        ("active - random", "", found.arms.difference.difference),
    ]
    head = "Accuracy on held-out pairs; 95 % intervals, n counts prompts"
    return Answer(table(head, ["arm", "labels", "accuracy"], rows), {"arms": found.arms, "labels": found.labels})


def quality(
    *,
    gold: Annotated[str | None, Parameter(name="--gold")] = None,
    wage: float | None = None,
    split: Split | None = None,
    project: Folder = Path(),
    config: Config = None,
    json: Json = False,
) -> Answer:
    """How good the store's rankings and ratings are: agreement, ability of each rater, leanings, pace, drift.

    Parameters
    ----------
    gold
        Name or id of an annotator whose rankings are right: others are measured against them, and they are left out.
    wage
        What an hour costs, for the cost of a label.
    split
        Only prompts of this split; without it, all.
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    found = Project.open(project, config).quality(gold=gold, wage=wage, split=split)
    return Answer(Group(*_parts(found)), {"quality": found})


def _parts(found: "Quality") -> Iterator[Any]:
    """What the command prints, from the whole to the single rater."""
    a = found.all
    yield table(
        f"{a.labels:,} rankings of {found.prompts:,} prompts; 95 % intervals",
        ["figure", "value"],
        [
            ("agreement of two raters", found.agreement),
            ("Krippendorff's alpha, ordinal", found.alpha),
            ("the same, of ratings", found.rating_alpha),
            ("pairs judged by two or more", found.overlap),
            ("label noise", None if found.noise is None else f"{found.noise:.1%}"),
            ("first shown is better", a.first_shown),
            ("longer is better", a.longer),
            ("ties", a.ties),
            ("seconds a label, median", a.seconds),
            ("cost a label, mean", a.cost),
        ],
    )
    rows = [(one.who, f"{one.percent} %", one.source) for one in found.published]
    yield table("\nPublished agreement, to compare", ["who", "agreement", "source"], rows)
    raters = [(r, r.habits) for r in found.raters]
    yield table(
        "\nRaters",
        ["rater", "labels", "ability", "agreement", "gold", "again the same", "seconds", "cost"],
        [
            (
                r.rater.name,
                h.labels,
                *map(_brief, (r.ability, r.agreement, r.gold, r.steadiness)),
                h.seconds,
                h.cost and f"{h.cost.mean:.3f} [{h.cost.low:.3f}, {h.cost.high:.3f}]",
            )
            for r, h in raters
        ],
    )
    yield table(
        "\nLeanings (50 % is none)",
        ["rater", "first shown is better", "longer is better", "ties"],
        [(r.rater.name, *map(_brief, (h.first_shown, h.longer, h.ties))) for r, h in raters],
    )
    if len(found.periods) > 1:
        rounds = [(p.name, p.habits.labels, p.agreement, p.alpha, p.habits.seconds) for p in found.periods]
        yield table("\nRounds", ["round", "labels", "agreement", "alpha", "seconds"], rounds)
        clear = [d for d in found.drift if d.moved.clear]
        yield Text(f"\n{len(clear)} of {len(found.drift)} figures moved clearly between rounds; by chance 5 % would.")
        if clear:
            moved = [(d.rater or "all", d.before, d.after, d.moved.figure, d.moved.change) for d in clear]
            yield table("", ["rater", "from", "to", "figure", "change"], moved)
    if found.models is not None:
        yield from _models(found.models)


def _brief(rate: "Rate | None") -> str | None:
    """A rate in a narrow column: percent, interval, n."""
    return None if rate is None else f"{rate.rate:.0%} [{100 * rate.low:.0f}, {100 * rate.high:.0f}] of {rate.n:,}"


def _models(models: "Models") -> Iterator[Any]:
    """Which model is liked best, and whether by everybody."""
    by_strength = sorted(zip(models.fitted.strengths, models.names, models.wins, strict=True), reverse=True)
    lines = [(name, _brief(wins), f"{strength:+.2f}") for strength, name, wins in by_strength]
    yield table("\nModels", ["model", "wins", "strength in nats"], lines)
    if models.two_tastes is not None:
        two = models.two_tastes
        gain = models.one_taste.criterion - two.criterion
        split = f"Two groups of {two.shares[0]:.0%} and {two.shares[1]:.0%} of the raters explain the labels better"
        said = split if gain > 0 else "One taste for all raters explains the labels better than two"
        yield Text(f"{said} (information criterion {gain:+.1f}).")
