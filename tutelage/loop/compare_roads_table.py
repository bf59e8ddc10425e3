"""The comparison of roads as tables and figures: what the seeds say, put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.evaluate.figures import Chart, Line
from tutelage.evaluate.statistics import Rate, clustered_rate
from tutelage.loop.compare_roads_measure import EVEN, mean
from tutelage.loop.demo_report import UNSEEN

BOUNDS = (2.0, 5.0, 10.0)  # nats a text
COLUMNS = (
    "road",
    "wins, unseen judge",
    "wins, VADER",
    "wins, same words",
    "gold",
    "proxy",
    "KL, nats",
    "words",
    "ended",
    "training, s",
    "sampling, s",
    "CPU, s",
    "peak, GiB",
    "completions",
    "updates",
)
COSTS = COLUMNS.index("training, s")  # from here on a row says what the road cost
BOUND_COLUMNS = (
    "road",
    *(f"best gold, KL ≤ {b:g}" for b in BOUNDS),
    *(f"share of PPO's gain, KL ≤ {b:g}" for b in BOUNDS),
)
SWEEP_COLUMNS = ("road", "temperature", "wins against SFT at 1, unseen judge")
Found = Mapping[int, Mapping[str, Any]]  # by seed, by road


@dataclass(frozen=True)
class Spread:
    """The mean of the seeds' values, the lowest and the highest."""

    mean: float
    low: float
    high: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread | None":
        """None when a seed has no value."""
        known = [v for v in values if v is not None]
        return cls(mean(known), min(known), max(known), len(known)) if known and len(known) == len(values) else None

    def text(self, digits: int) -> str:
        """As a table shows it."""
        shown = f"{self.mean:.{digits}f}"
        return shown if self.seeds == 1 else f"{shown} ({self.low:.{digits}f} to {self.high:.{digits}f})"


@dataclass(frozen=True)
class Row:
    """One road over all seeds."""

    name: str
    wins: Mapping[str, Rate]  # by judge, against SFT; empty for SFT itself
    by_seed: tuple[float, ...]  # the unseen judge's rates
    end: Mapping[str, Spread | None]  # gold, proxy and KL
    words: Spread | None
    ended: Spread | None
    cost: Mapping[str, Spread | None]

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of COLUMNS."""

        def rate(judge: str) -> str:
            return str(self.wins[judge]) if judge in self.wins else "–"

        def spread(value: Spread | None, digits: int) -> str:
            return "–" if value is None else value.text(digits)

        cost = self.cost.get
        training, sampling = cost("seconds"), cost("sampling_seconds")
        return (
            self.name,
            rate(UNSEEN),
            rate("VADER"),
            rate(EVEN),
            spread(self.end["gold"], 2),
            spread(self.end["proxy"], 2),
            spread(self.end["kl"], 2),
            spread(self.words, 1),
            spread(self.ended, 2),
            spread(training, 0),
            spread(sampling, 0),
            spread(cost("processor_seconds"), 0),
            spread(cost("peak_gib"), 2),
            spread(cost("completions"), 0),
            spread(cost("updates"), 0),
        )


def names(found: Found) -> list[str]:
    """The roads, SFT first."""
    return [key for key in next(iter(found.values())) if key not in ("openings", "prompts")]


def rows_of(found: Found) -> tuple[Row, ...]:
    """Every road over all seeds, SFT first, best-of-n once for each n."""
    made = []
    first = next(iter(found.values()))
    for name in names(found):
        if name == "best-of-n":
            made += [_best_of_row(found, n) for n in first[name]["each"]]
            continue
        of = [seed[name] for seed in found.values()]
        ends = [one["points"][-1] for one in of]
        made.append(
            Row(
                name,
                _wins(found, [one.get("wins", {}) for one in of]),
                tuple(mean(one["wins"][UNSEEN]) for one in of if "wins" in one),
                {key: Spread.of([end[key] for end in ends]) for key in ("gold", "proxy", "kl")},
                Spread.of([one["words"] for one in of]),
                Spread.of([one["ended"] for one in of]),
                _costs([one["cost"] for one in of]),
            )
        )
    return tuple(made)


def _best_of_row(found: Found, n: str) -> Row:
    of = [seed["best-of-n"] for seed in found.values()]
    points = [next((p for p in one["points"] if p["at"] == f"n = {n}"), None) for one in of]
    each = [one["each"][n] for one in of]
    return Row(
        f"best of {n}",
        _wins(found, [one["wins"] for one in each]),
        tuple(mean(one["wins"][UNSEEN]) for one in each),
        {key: Spread.of([None if p is None else p[key] for p in points]) for key in ("gold", "proxy", "kl")},
        Spread.of([one["words"] for one in each]),
        Spread.of([one["ended"] for one in each]),
        {},
    )


def _wins(found: Found, of: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Rate]:
    """By judge, the rate over all seeds' prompts; outcomes of one prompt under several seeds are one group."""
    prompts = [p for seed in found.values() for p in seed["prompts"]]
    return {judge: clustered_rate([v for one in of for v in one[judge]], prompts) for judge in of[0]}


def _costs(of: Sequence[Mapping[str, Any]]) -> dict[str, Spread | None]:
    return {key: Spread.of([one.get(key) for one in of]) for key in of[0] if key != "labels"}


def best_within(points: Sequence[Mapping[str, Any]], start: Mapping[str, Any], bound: float) -> float:
    """The best gold of a road's points that cost at most so many nats; where all roads start costs none."""
    return max(float(p["gold"]) for p in [start, *points] if p["kl"] <= bound)


def bounds_of(found: Found) -> dict[str, list[list[float]]]:
    """By road, for each of BOUNDS the best gold of every seed. DPO's several β together are one more road."""
    made: dict[str, list[list[float]]] = {}
    families = {name: [name] for name in names(found)}
    if any(name.startswith("dpo beta") for name in families):
        families["dpo, best beta"] = [name for name in families if name.split()[0] == "dpo"]
    for family, members in families.items():
        made[family] = [
            [
                best_within([p for m in members for p in seed[m]["points"]], seed["sft"]["points"][0], bound)
                for seed in found.values()
            ]
            for bound in BOUNDS
        ]
    return made


def bound_rows(found: Found) -> tuple[tuple[str, ...], ...]:
    """The best gold within each bound, and what share it is of what PPO gains over SFT there."""
    best = bounds_of(found)
    rows = []
    for name, values in best.items():
        gold = [Spread.of(v) for v in values]
        shares = []
        for place, mine in enumerate(values):
            gain = mean(mine) - mean(best["sft"][place])
            ppo = mean(best["ppo"][place]) - mean(best["sft"][place]) if "ppo" in best else 0.0
            shares.append(f"{gain / ppo:.0%}" if ppo > 0 else "–")
        rows.append((name, *(g.text(2) if g else "–" for g in gold), *shares))
    return tuple(rows)


def sweep_rows(found: Found) -> tuple[tuple[str, ...], ...]:
    """Win rates at each temperature."""
    rows = []
    prompts = [p for seed in found.values() for p in seed["prompts"]]
    for name in names(found):
        for temperature in next(iter(found.values()))[name].get("sweep", {}):
            outcomes = [v for seed in found.values() for v in seed[name]["sweep"][temperature]]
            rows.append((name, temperature, str(clustered_rate(outcomes, prompts))))
    return tuple(rows)


def frontier(found: Found, score: str) -> Chart:
    """Gold or proxy against KL: each road's points, means of the seeds, from SFT on."""
    lines = []
    start = mean([seed["sft"]["points"][0][score] for seed in found.values()])
    for name in names(found)[1:]:
        tracks = [seed[name]["points"] for seed in found.values()]
        fewest = min(len(track) for track in tracks)
        steps = [[track[i] if i < fewest - 1 else track[-1] for track in tracks] for i in range(fewest)]
        means = [(mean([p["kl"] for p in step]), mean([p[score] for p in step])) for step in steps]
        rows = sorted([(0.0, start), *(row for row in means if row[0] > 0 or name != "best-of-n")])
        lines.append(Line(name, tuple(row[0] for row in rows), tuple(row[1] for row in rows), points=True))
    unit = {"gold": "unseen judge, log-odds of liked", "proxy": "reward model, standard deviations"}[score]
    caption = (
        f"Means of {len(found)} seed{'s'[: len(found) != 1]}, on held-out prompts. Best-of-n's KL is log n − (n−1)/n. "
        "Where proxy rises and gold does not, the reward model is exploited."
    )
    return Chart(f"Frontier: {score}", "KL from SFT, nats a text", unit, tuple(lines), caption)
