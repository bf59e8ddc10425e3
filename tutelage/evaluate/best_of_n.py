"""The best-of-n curve: what a proxy's favourite of n is worth, by the proxy and by gold, against the KL it costs.

From N samples of each prompt every n up to N is estimated without bias (WebGPT's estimator); intervals are by bootstrap
over prompts. Gold falling while the proxy rises is over-optimisation (Gao et al. 2022, figure 1).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tutelage.errors import DataError
from tutelage.evaluate.figures import Chart, Line
from tutelage.evaluate.statistics import Mean, best_of_n, best_of_n_kl, bootstrap_mean

Table = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Point:
    """Best of n."""

    n: int
    kl: float
    """From the policy sampled, in nats: log n − (n−1)/n; at most that when scores tie."""
    proxy: Mean
    """Of the favourite, by the score that chose it; n counts prompts."""
    gold: Mean | None
    """Of the same, by the other judge."""


def counts(samples: int) -> Iterator[int]:
    """1, 2, 4, … and the number of samples itself."""
    n = 1
    while n < samples:
        yield n
        n *= 2
    yield samples


def curve(proxy: Table, gold: Table | None = None, *, seed: int = 0) -> tuple[Point, ...]:
    """The curve from scores of P prompts, N samples each.

    Raises:
        DataError: fewer than two prompts, or not the same number of samples of each.
    """
    sizes = {len(row) for row in [*proxy, *(gold or ())]}
    if len(proxy) < 2 or len(sizes) != 1 or (gold is not None and len(gold) != len(proxy)):
        raise DataError(
            f"{len(proxy)} prompts with {sorted(sizes)} samples: a curve needs two prompts or more, the same number of "
            "samples of each, and both scores of all"
        )

    def favourite(worth: Table, n: int) -> Mean:
        chosen = [best_of_n(by, of, n) for by, of in zip(proxy, worth, strict=True)]
        return bootstrap_mean(chosen, seed=seed)

    return tuple(
        Point(n, best_of_n_kl(n), favourite(proxy, n), favourite(gold, n) if gold is not None else None)
        for n in counts(next(iter(sizes)))
    )


def charts(points: Sequence[Point], proxy: str, gold: str | None) -> tuple[Chart, ...]:
    """Score against KL, and against n, with 95 % intervals; `proxy` and `gold` say who judged."""
    judged = {"proxy": proxy} if gold is None else {"proxy": proxy, "gold": gold}
    caption = (
        f"Mean over {points[0].proxy.n} prompts with 95 % intervals by bootstrap over prompts; "
        f"{', '.join(f'{who}: {name}' for who, name in judged.items())}. "
        "KL is log n − (n−1)/n, an upper bound where scores tie."
    )

    def line(who: str, x: Sequence[float]) -> Line:
        means: list[Mean] = [point.__dict__[who] for point in points]
        low, high = tuple(m.low for m in means), tuple(m.high for m in means)
        return Line(who, tuple(x), tuple(m.mean for m in means), low, high, points=True)

    kls, ns = [p.kl for p in points], [float(p.n) for p in points]
    return (
        Chart("Best of n, by KL", "KL, nats per text", "score", tuple(line(who, kls) for who in judged), caption),
        Chart("Best of n, by n", "n", "score", tuple(line(who, ns) for who in judged), caption),
    )
