"""Judges against people: every figure on verdicts whose figures are known, and two real data sets."""

from pathlib import Path

import numpy as np
import pytest

from tutelage.errors import DataError
from tutelage.evaluate.accuracy import text_pairs
from tutelage.evaluate.judges import labelled_pairs, validate, validate_panel
from tutelage.feedback.exchange import import_file
from tutelage.feedback.simulated import default_panel
from tutelage.feedback.store import Store
from tutelage.judge.asking import Reply
from tutelage.judge.compare import Verdict, judge_pairs
from tutelage.judge.rubric import Rubric
from tutelage.judge.scripted import ScriptedJudge, taste
from tutelage.records import Annotator, Comparison, Completion, Prompt, Source
from tutelage.terminal import human

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
RUBRIC = Rubric("long", "The longer answer is better.")
SOURCE = Source(model="file")


def comparison(prompt, texts, ranks, who="ann", shown=None, kind="human"):
    return Comparison(
        prompt=Prompt.user(prompt),
        completions=tuple(Completion(id=f"{prompt}-{t}", text=t, source=SOURCE) for t in texts),
        ranks=ranks,
        shown=shown or tuple(range(len(texts))),
        annotator=Annotator(id=who, kind=kind, name=who),
    )


def verdict(p, first_place=0.0):
    """A preference p for the first, with this much more for whatever stands first."""
    return Verdict("j", p + first_place, p - first_place, (), soft=True)


def by_text(pairs, better):
    """Verdicts that prefer the text `better` says, certainly."""
    return [verdict(float(better(*(c.text for c in pair.question.completions)))) for pair in pairs]


def test_pairs_are_one_whoever_judged_them_and_in_whichever_order():
    rows = [
        comparison("p", ["x", "y"], (1, 2), "ann"),
        comparison("p", ["y", "x"], (2, 1), "ben", shown=(1, 0)),
        comparison("p", ["x", "y"], (1, 1), "cat"),
        comparison("p", ["x", "y"], (2, 1), "gpt", kind="model"),
        comparison("q", ["x", "y", "z"], (1, 2, 2), "ann"),
        comparison("r", ["x", "x"], (1, 2), "ann"),
    ]
    found = labelled_pairs(rows)
    texts = [{c.text for c in pair.question.completions} for pair in found]
    assert texts == [{"x", "y"}, {"x", "y"}, {"x", "z"}]  # q's y and z tie, r's are the same
    x_first = found[0].question.completions[0].text == "x"
    assert found[0].votes == {"ann": float(x_first), "ben": float(x_first), "cat": 0.5}
    assert found[0].shown_first == {"ann": 1.0, "ben": 1.0, "cat": 0.5}


def test_which_text_is_listed_first_says_nothing_about_the_label():
    found = labelled_pairs(comparison(f"p{i}", [f"good {i}", f"bad {i}"], (1, 2)) for i in range(400))
    first_wins = np.mean([pair.votes["ann"] for pair in found])
    assert first_wins == pytest.approx(0.5, abs=0.08)


def test_agreement_counts_votes_and_ties_half():
    rows = [comparison(f"p{i}", ["x", "yy"], (1, 2) if i < 6 else (2, 1)) for i in range(10)]
    pairs = labelled_pairs(rows)
    found = validate(pairs, by_text(pairs, lambda a, b: a == "x"))
    assert (found.agreement.rate, found.agreement.n, found.pairs, found.judged) == (0.6, 10, 10, 10)
    assert found.longer_wins.rate == pytest.approx(0.4)
    assert found.first_wins.rate == pytest.approx(0.6)
    assert found.people is None
    assert validate(pairs, [verdict(0.5)] * 10).agreement.rate == 0.5


def test_people_in_the_judges_place():
    rows = []
    for i in range(8):
        votes = {"ann": (1, 2), "ben": (1, 2), "cat": (2, 1) if i < 2 else (1, 1) if i < 4 else (1, 2)}
        rows += [comparison(f"p{i}", ["x", "yy"], ranks, who) for who, ranks in votes.items()]
    found = validate(pairs := labelled_pairs(rows), by_text(pairs, lambda a, b: a == "x"))
    # two pairs: 2 of 6 ordered pairs of people agree; two with a tie: ann and ben agree twice, cat is half right twice
    expected = (2 * 2 + 2 * (2 + 1) + 4 * 6) / (2 * 6 + 2 * 4 + 4 * 6)
    assert found.people.rate == pytest.approx(expected)
    assert found.people.n == 8
    assert found.agreement.rate == pytest.approx((2 * 2 + 2 * 2 + 4 * 3) / (2 * 3 + 2 * 2 + 4 * 3))


def test_a_judge_of_the_first_place_is_found_out():
    pairs = labelled_pairs(comparison(f"p{i}", ["x", "yy"], (1, 2)) for i in range(50))
    found = validate(pairs, [Verdict("first", 1.0, 0.0, (), soft=False)] * 50)
    assert (found.agreement.rate, found.consistency.rate) == (0.5, 0.0)
    assert (found.position_bias.mean, found.position_bias.low) == (1.0, 1.0)
    fair = validate(pairs, [verdict(0.7, 0.1)] * 50)
    assert fair.position_bias.mean == pytest.approx(0.2)
    assert fair.consistency.rate == 1.0


def test_a_judge_of_length_is_found_out():
    rng = np.random.default_rng(0)
    rows = [
        comparison(f"p{i}", ["short", "a longer one"], (1, 2) if rng.random() < 0.5 else (2, 1)) for i in range(200)
    ]
    pairs = labelled_pairs(rows)
    people = np.mean([c.ranks == (2, 1) for c in rows])
    found = validate(pairs, by_text(pairs, lambda a, b: len(a) > len(b)))
    assert found.length_bias.mean == pytest.approx(1 - people)
    assert found.length_bias.low < found.length_bias.mean < found.length_bias.high
    assert found.agreement.rate == pytest.approx(found.longer_wins.rate) == pytest.approx(people)
    exact = [verdict(pair.votes["ann"]) for pair in pairs]
    assert validate(pairs, exact).length_bias.mean == pytest.approx(0)
    level = labelled_pairs(comparison(f"p{i}", ["xx", "yy"], (1, 2)) for i in range(3))
    assert validate(level, [verdict(0.9)] * 3).length_bias is None


def test_soft_labels_keep_their_calibration_and_hard_ones_lose_it():
    rng = np.random.default_rng(1)
    p = rng.beta(2, 2, 1500)
    rows = [comparison(f"p{i}", ["x", "yy"], (1, 2) if rng.random() < q else (2, 1)) for i, q in enumerate(p)]
    pairs = labelled_pairs(rows)
    said = [q if pair.question.completions[0].text == "x" else 1 - q for q, pair in zip(p, pairs, strict=True)]
    found = validate(pairs, [verdict(q) for q in said])
    print(f"ECE soft {found.calibration_error:.3f}, hard {found.calibration_error_hard:.3f}")
    assert found.calibration_error < 0.03
    assert found.calibration_error_hard == pytest.approx(1 - found.agreement.rate, abs=0.002)


def test_what_was_not_judged_is_counted_by_reason_and_left_out():
    pairs = labelled_pairs(comparison(f"p{i}", ["x", "yy"], (1, 2)) for i in range(5))
    said = by_text(pairs, lambda a, b: a == "x")
    said[1] = Verdict("j", None, 0.2, ("refusal: 'no'",), soft=True)
    said[3] = Verdict("j", None, None, ("refusal: 'never'", "HTTP 500: x"), soft=True)
    found = validate(pairs, said)
    assert (found.pairs, found.judged, found.not_judged) == (5, 3, {"refusal": 2, "HTTP 500": 1})
    assert found.agreement.rate == 1.0
    with pytest.raises(DataError, match=r"1 of 2 pairs were judged.*Why not: refusal \(1\)"):
        validate(pairs[:2], said[:2])
    with pytest.raises(DataError, match="5 pairs but 2 verdicts"):
        validate(pairs, said[:2])


def test_a_panel_has_figures_of_each_judge_and_of_all():
    pairs = labelled_pairs(comparison(f"p{i}", ["x", "yy"], (1, 2)) for i in range(10))
    right = ScriptedJudge(lambda a: Reply((0.8, 0.2) if a.texts[0] == "x" else (0.2, 0.8)), "right")
    wrong = ScriptedJudge(lambda a: Reply((0.3, 0.7) if a.texts[0] == "x" else (0.7, 0.3)), "wrong")
    found = validate_panel(pairs, list(judge_pairs((p.question for p in pairs), [right, wrong], RUBRIC)))
    assert [one.judge for one in found] == ["right", "wrong", "right + wrong"]
    assert [one.agreement.rate for one in found] == [1.0, 0.0, 1.0]
    alone = validate_panel(pairs, list(judge_pairs((p.question for p in pairs), [right], RUBRIC)))
    assert [one.judge for one in alone] == ["right"]


def simulated_votes(count, seed):
    """A simulated panel's votes on texts whose worth is a number in them; each pair by three of its people."""
    rng = np.random.default_rng(seed)
    panel = default_panel(lambda texts: np.array([float(t.split()[0]) for t in texts]))
    for i in range(count):
        texts = [f"{rng.normal():.4f} " + "word " * int(rng.integers(1, 30)) for _ in range(2)]
        done = [Completion(id=f"{i}-{k}", text=t, source=SOURCE) for k, t in enumerate(texts)]
        yield from (panel.compare(Prompt.user(f"p{i}"), done, rng) for _ in range(3))


def test_a_judge_that_knows_the_taste_agrees_with_a_simulated_panel_as_its_people_do():
    pairs = labelled_pairs(simulated_votes(250, 0))
    judge = ScriptedJudge(taste(lambda t: float(t.split()[0]), slope=1.2, first_bias=0.8))
    (found,) = validate_panel(pairs, list(judge_pairs((p.question for p in pairs), [judge], RUBRIC)))
    print(found)
    assert found.people.rate < found.agreement.rate < found.people.rate + 0.15
    assert found.longer_wins.rate < 0.6 < found.agreement.low
    assert found.position_bias.low > 0.15
    assert abs(found.length_bias.mean) < 0.06
    assert found.one_order.rate <= found.agreement.rate


def imported(name, tmp_path):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the shared data set {name} is not beside the project")
    with Store(tmp_path / "s.db") as store:
        import_file(path, "auto", store, annotator=human("people"))
        return list(store.comparisons())


def test_pandalms_people_and_its_trivial_rules(tmp_path):
    rows = imported("pandalm/testset-v1.json", tmp_path)
    pairs = labelled_pairs(rows)
    found = validate(pairs, by_text(pairs, lambda a, b: len(a) > len(b)))
    assert found.agreement.rate == pytest.approx(found.longer_wins.rate, abs=0.01)  # all but equal lengths
    assert found.people.rate == pytest.approx(0.95, abs=0.02)
    assert found.first_wins.rate == pytest.approx(0.5, abs=0.03)
    assert 150 < found.people.n < 170 < found.pairs  # many pairs share a prompt
    assert len(text_pairs(rows)) > 2000


def test_hh_says_nothing_by_its_order(tmp_path):
    pairs = labelled_pairs(imported("hh-rlhf/harmless-base-test.jsonl.gz", tmp_path))
    found = validate(pairs, [Verdict("first", 1.0, 1.0, (), soft=False)] * len(pairs))
    assert found.agreement.rate == pytest.approx(0.5, abs=0.03)
    assert found.first_wins.rate == pytest.approx(0.5, abs=0.03)
    assert found.longer_wins.rate == pytest.approx(0.445, abs=0.005)
    assert found.people is None
