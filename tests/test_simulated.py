"""Simulated annotators: what they say in the long run is what their documented model says."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from tutelage.feedback.simulated import Floats, Panel, SimulatedAnnotator, default_panel
from tutelage.records import Annotator, Completion, Prompt, Source

WHO = Annotator(id="sim", kind="simulated", name="sim")
PROMPT = Prompt.text("The film")
N = 4000
SLACK = 4 * 0.5 / N**0.5  # four standard errors of a share, at its widest: 0.032


def judge(texts: object) -> Floats:
    """A text's score is the number it begins with."""
    return np.array([float(text.split()[0]) for text in texts])  # type: ignore[attr-defined]


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def slack(share: float) -> float:
    """Four standard errors of a share of N."""
    return float(4 * np.sqrt(share * (1 - share) / N))


def answers(*texts: str) -> list[Completion]:
    return [Completion(id=f"c{i}", text=text, source=Source(model="m")) for i, text in enumerate(texts)]


def shares(person: SimulatedAnnotator, texts: list[str], seed: int = 0) -> dict[tuple[int, ...], float]:
    rng = np.random.default_rng(seed)
    found = Counter(person.rank(PROMPT, texts, judge(texts), rng) for _ in range(N))
    return {ranks: count / N for ranks, count in found.items()}


def test_pairs_follow_bradley_terry() -> None:
    found = shares(SimulatedAnnotator(WHO, slope=2.5), ["0.9 x", "0.1 x"])
    assert set(found) == {(1, 2), (2, 1)}
    assert found[1, 2] == pytest.approx(sigmoid(2.0), abs=slack(sigmoid(2.0)))  # were the noise normal: .921, not .881


def test_rankings_follow_plackett_luce() -> None:
    """All 24 orders of four, each against the product of choices it is made of (Luce 1959)."""
    scores = [1.0, 0.0, -0.5, 0.3]
    found = shares(SimulatedAnnotator(WHO, slope=1.2), [f"{s} x" for s in scores])
    weight = np.exp(1.2 * np.array(scores))
    for order in permutations(range(4)):
        wanted = np.prod([weight[order[i]] / weight[list(order[i:])].sum() for i in range(4)])
        ranks = tuple(order.index(i) + 1 for i in range(4))
        assert found.get(ranks, 0.0) == pytest.approx(float(wanted), abs=slack(float(wanted)))


def test_ties_follow_rao_and_kupper() -> None:
    """P(a wins) = π_a / (π_a + θ π_b) with θ = e^tie."""
    person = SimulatedAnnotator(WHO, slope=1.0, tie=0.7)
    found = shares(person, ["0.5 x", "0.0 x"])
    a, b, theta = np.exp(0.5), 1.0, np.exp(0.7)
    assert found[1, 2] == pytest.approx(a / (a + theta * b), abs=SLACK)
    assert found[2, 1] == pytest.approx(b / (b + theta * a), abs=SLACK)
    assert found[1, 1] == pytest.approx(1 - a / (a + theta * b) - b / (b + theta * a), abs=SLACK)


def test_equal_ranks_leave_a_gap() -> None:
    person = SimulatedAnnotator(WHO, slope=1000.0, tie=50.0)  # noise is nothing against this
    texts = ["0.1 x", "1 x", "0.99 x", "-3 x"]
    assert shares(person, texts) == {(3, 1, 1, 4): 1.0}


def test_taste_for_length() -> None:
    short, long = "0.5 x", "0.5" + " x" * 20
    for taste in (0.1, -0.1):
        found = shares(SimulatedAnnotator(WHO, slope=1.0, length_taste=taste), [long, short])
        assert found[1, 2] == pytest.approx(sigmoid(taste * 19), abs=SLACK)


def test_lean_to_the_first_and_lapses() -> None:
    leaning = SimulatedAnnotator(WHO, slope=1.0, first_bias=0.8)
    assert shares(leaning, ["0 x", "0 x"])[1, 2] == pytest.approx(sigmoid(0.8), abs=SLACK)
    assert shares(leaning, ["0 x", "1 x"])[1, 2] == pytest.approx(sigmoid(-0.2), abs=SLACK)
    lapsing = SimulatedAnnotator(WHO, slope=1000.0, lapse=0.3, tie=1.0)
    found = shares(lapsing, ["1 x", "0 x"])
    assert found[1, 2] == pytest.approx(0.85, abs=SLACK)
    assert set(found) == {(1, 2), (2, 1)}


@pytest.mark.parametrize("k", [2, 3])
def test_the_panels_probability_is_what_it_does(k: int) -> None:
    """`probability_of` against 12,000 judgements of the panel, with place, lapses, tastes and (for pairs) ties."""
    people = (
        SimulatedAnnotator(Annotator(id="a", kind="simulated", name="a"), slope=2.0, tie=2.0 if k == 2 else 0.0),
        SimulatedAnnotator(Annotator(id="b", kind="simulated", name="b"), slope=0.5, lapse=0.2, first_bias=1.5),
        SimulatedAnnotator(Annotator(id="c", kind="simulated", name="c"), slope=1.0, length_taste=-0.2),
    )
    panel = Panel(people=people, judge=judge)
    completions = answers("0.9 x x x x x x", "0.1 x", "0.4 x x")[:k]
    rng = np.random.default_rng(1)
    records = [panel.compare(PROMPT, completions, rng) for _ in range(3 * N)]
    verdicts = Counter(pair for record in records for pair in record.pairs())
    for i, j in [(0, 1), (1, 2), (0, 2)] if k == 3 else [(0, 1)]:
        share = verdicts[i, j] / (verdicts[i, j] + verdicts[j, i])
        wanted = panel.probability_of([completions[i].text], [completions[j].text], num_shown=k)
        assert share == pytest.approx(float(wanted[0]), abs=0.02)
        back = panel.probability_of([completions[j].text], [completions[i].text], num_shown=k)
        assert wanted[0] + back[0] == pytest.approx(1.0, abs=1e-12)


def test_equal_lengths_need_no_words() -> None:
    panel = default_panel(judge)
    a, b = ["1.5 x", "0 x", "-2 x"], ["0.5 x", "0 x", "3 x"]
    assert panel.probability(judge(a), judge(b)) == pytest.approx(panel.probability_of(a, b), abs=1e-12)
    assert panel.probability([0.0], [0.0]) == pytest.approx([0.5], abs=1e-12)
    assert list(panel.probability([9.0, 0.5], [0.0, 0.0])) == sorted(panel.probability([9.0, 0.5], [0.0, 0.0]))[::-1]
    # one person in five answers at random one time in ten: nobody can do better than .99
    assert panel.probability([99.0], [0.0])[0] == pytest.approx(0.99, abs=0.001)


def test_a_record_says_who_what_and_in_which_order() -> None:
    panel = default_panel(judge)
    completions = answers(*(f"{s} x x" for s in (0.3, 2.0, -1.0, 0.5)))
    rng = np.random.default_rng(3)
    records = [panel.compare(PROMPT, completions, rng) for _ in range(600)]
    assert {r.annotator for r in records} == set(panel.annotators)
    assert {r.annotator.kind for r in records} == {"simulated"}
    assert all("simulated" in r.annotator.name for r in records)
    counts = Counter(r.annotator.id for r in records)
    assert len(counts) == 5
    assert min(counts.values()) > 80  # 120 expected
    assert all(list(r.completions) == completions for r in records)
    first = Counter(r.shown[0] for r in records)
    assert min(first.values()) > 100  # 150 expected of each of four
    assert len({r.id for r in records}) == 600
    assert all(r.seconds is not None and 1 < r.seconds < 20 for r in records)


def test_the_place_on_the_screen_is_the_recorded_one() -> None:
    """Somebody who only looks at what stands first must always have `shown[0]` in rank 1."""
    panel = Panel(people=(SimulatedAnnotator(WHO, slope=0.0, first_bias=1000.0),), judge=judge)
    rng = np.random.default_rng(4)
    for _ in range(50):
        record = panel.compare(PROMPT, answers("1 x", "2 x", "3 x"), rng)
        assert record.ranks[record.shown[0]] == 1


def test_a_seed_decides_everything() -> None:
    panel = default_panel(judge)
    once, again, other = (
        panel.compare(PROMPT, answers("1 x", "0 x", "2 x"), np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    timeless = {"created"}
    assert once.model_dump(exclude=timeless) == again.model_dump(exclude=timeless)
    assert once.id != other.id


def test_agreement_with_the_judge_is_a_persons() -> None:
    """For a judge whose scores have sd 1.5, as on film reviews, the best guess is right .75 to .88 of the time."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1.5, 4000), rng.normal(0, 1.5, 4000)
    p = default_panel(judge).probability(a, b)
    ceiling = float(np.maximum(p, 1 - p).mean())
    assert 0.75 < ceiling < 0.88
