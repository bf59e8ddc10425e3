"""Rule-based rewards, two reward models, and a judge as the reward: exact values, planted weights, the seams."""

import math

import numpy as np
import pytest
import torch

from tutelage.errors import ConfigError, DataError, JudgeError
from tutelage.evaluate.propositions import areas
from tutelage.judge.asking import Reply
from tutelage.judge.grading import JudgeGrader, fit_grader, out_of_fold
from tutelage.judge.propositions import (
    Labelled,
    Proposition,
    Rulebook,
    ranked_pairs,
    read_labelled,
    read_rulebook,
)
from tutelage.judge.reading import StateReader, WordsAndStates
from tutelage.judge.rubric import Rubric
from tutelage.judge.rule_weights import Pairs, RuleBasedReward, fit_weights
from tutelage.judge.score import ScoreReward
from tutelage.judge.scripted import ScriptedJudge
from tutelage.learn.reward import Groups, Ranking, RewardConfig
from tutelage.learn.two_rewards import TwoRewards, piecewise
from tutelage.model.batch import Packed
from tutelage.model.causal import Model
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.records import Prompt

BOOK = Rulebook(
    behaviours={"comply": "do it", "refuse": "say no"},
    propositions=(
        Proposition(id="yes", text="It says yes.", desired=("comply",), unacceptable=("refuse",)),
        Proposition(id="sorry", text="It says sorry.", desired=("refuse",), undesired=("comply",)),
    ),
)
PROMPT = Prompt.user("May I?")


def answer(text, behaviour, prompt=PROMPT):
    truth = {"yes": "yes" in text, "sorry": "sorry" in text}
    return Labelled(prompt, text, behaviour, truth)


def test_classes_and_features_follow_from_the_rulebook():
    ranks = [BOOK.rank(answer(t, "refuse").truth, "refuse") for t in ("sorry", "no", "yes sorry")]
    assert ranks == [0, 1, 2]
    phi = BOOK.phi(np.array([[0.25, 0.5], [0.75, 1.0]]), ["comply", "refuse"])
    assert phi.tolist() == [[0.25, 0.5, 0, 0], [0, 0, 0.75, 1.0]]
    assert [f.sign for f in BOOK.features] == [1, -1, -1, 1]
    some = [answer("yes", "refuse"), answer("sorry", "refuse"), answer("sorry", "refuse", Prompt.user("Else?"))]
    assert ranked_pairs(some, BOOK) == [(1, 0)]


def test_a_hinge_of_one_pair_by_hand():
    """One pair, d = 2, short by 1: w = 1/2 closes it where decay is small; a large one stops at 2/decay."""
    one = Pairs(np.array([[2.0]]), np.array([[0.0]]), np.zeros(1), np.zeros(1))
    assert fit_weights(one, 0.01) == pytest.approx([0.5], abs=1e-4)
    assert fit_weights(one, 10.0) == pytest.approx([0.2], abs=1e-6)
    ahead = Pairs(np.array([[2.0]]), np.array([[0.0]]), np.full(1, 3.0), np.zeros(1))
    assert fit_weights(ahead, 0.01) == pytest.approx([0.0], abs=1e-6)
    assert [one.hinge(np.array([w])) for w in (0.0, 0.2, 0.5, 9.0)] == pytest.approx([1.0, 0.6, 0.0, 0.0])


def test_fitted_signs_are_the_planted_ones():
    rng = np.random.default_rng(0)
    truth = np.array([1.0, -2.0, 0.5, -1.0, 1.5])
    a, b = rng.random((400, 5)), rng.random((400, 5))
    first = (a - b) @ truth > 0
    better, worse = np.where(first[:, None], a, b), np.where(first[:, None], b, a)
    pairs = Pairs(better, worse, np.zeros(400), np.zeros(400))
    found = fit_weights(pairs, 0.01)
    assert np.sign(found).tolist() == np.sign(truth).tolist()
    assert pairs.accuracy(found) > 0.95
    assert (
        np.sign(fit_weights(Pairs(worse, better, np.zeros(400), np.zeros(400)), 0.01)).tolist()
        == (-np.sign(truth)).tolist()
    )


def test_a_fitted_grader_and_the_reward_it_makes():
    some = [answer(t, "comply") for t in ("yes please", "yes do", "sorry not", "sorry never", "well", "hm")]
    grader = fit_grader(some, BOOK)
    found = grader.probabilities([(PROMPT, "yes sure"), (PROMPT, "sorry friend")])
    assert found[0, 0] > found[1, 0]
    assert found[1, 1] > found[0, 1]
    reward = RuleBasedReward(BOOK, grader, np.array([1.0, -1.0, -1.0, 1.0]), {PROMPT.id: "refuse"}, "comply")
    yes, no = reward.rewards([(PROMPT, "yes sure"), (PROMPT, "sorry friend")])
    assert no > yes
    other = Prompt.user("Else?")
    yes, no = reward.rewards([(other, "yes sure"), (other, "sorry friend")])
    assert yes > no


def test_labelled_answers_are_graded_by_what_has_not_seen_their_prompt():
    """A word of its own tells what is true of a prompt's answers, so only who saw the prompt can know."""
    rng = np.random.default_rng(0)
    made = [
        Labelled(Prompt.user(f"May I {i}?"), f"{word} {other}", "comply", {"yes": i % 2 == 0, "sorry": False})
        for i, word in enumerate("".join(rng.choice(list("abcdefghijklmnop"), 9)) for _ in range(60))
        for other in ("now", "then", "soon")
    ]
    truth = np.array([[one.truth["yes"]] for one in made])
    seen = fit_grader(made, BOOK).probabilities([(one.prompt, one.text) for one in made])
    assert areas(seen[:, :1], truth).item() == 1
    assert areas(out_of_fold(made, BOOK)[:, :1], truth).item() < 0.65


def test_a_reader_sees_what_words_do_not():
    """What is true here depends on the prompt alone, and the answers to be graded hold no word that was labelled."""
    rng = np.random.default_rng(0)

    def some(letters, count):
        texts = ["".join(rng.choice(list(letters), 6)) for _ in range(count)]
        return [
            Labelled(Prompt.text(asked), text, "comply", {"yes": asked == "aaa:", "sorry": False})
            for text in texts
            for asked in ("aaa:", "zzz:")
        ]

    known, new = some("bcdef", 60), some("ghijk", 30)
    answers, truth = [(one.prompt, one.text) for one in new], np.array([[one.truth["yes"]] for one in new])
    reader = StateReader(Model(tiny_decoder(260, seed=1), tiny_tokenizer(), "tiny"))
    words = fit_grader(known, BOOK).probabilities(answers)
    assert areas(words[:, :1], truth).item() == 0.5
    read = fit_grader(known, BOOK, WordsAndStates(reader)).probabilities(answers)
    assert areas(read[:, :1], truth).item() > 0.95
    before = reader.states(answers)
    reader.remember(answers[:7])
    assert np.allclose(reader.states(answers), before, atol=1e-6)
    alone = np.stack([reader.states([one])[0] for one in answers[7:12]])
    assert np.allclose(before[7:12], alone, atol=1e-5)


def test_states_are_means_over_the_answer_read_after_its_prompt():
    model = Model(tiny_decoder(260, seed=1), tiny_tokenizer(), "tiny")
    (found,) = StateReader(model, layer=1).states([(Prompt.text("Well: "), "no")])
    prompt, said = model.tokenizer.prompt(Prompt.text("Well: ")), model.tokenizer.completion("no")
    hidden = model.decoder.run(Packed.of([[*prompt, *said]]), 0, 1)
    assert np.allclose(found, hidden[len(prompt) :].mean(0).detach().numpy(), atol=1e-6)
    assert StateReader(model).layer == 2


def test_a_judge_grades_by_the_probability_of_yes():
    def says(ask):
        p = 0.9 if ask.texts[1].split()[-1].strip(".") in ask.texts[0] else 0.1
        return Reply((p, 1 - p))

    grader = JudgeGrader(ScriptedJudge(says), BOOK)
    assert grader.probabilities([(PROMPT, "sorry")]).tolist() == [[0.1, 0.9]]
    with pytest.raises(JudgeError, match="did not say whether yes"):
        JudgeGrader(ScriptedJudge(lambda _: Reply(None, reason="refusal")), BOOK).probabilities([(PROMPT, "x")])


def test_the_area_counts_pairs_and_ties_half():
    found = areas(np.array([[0.9], [0.5], [0.5], [0.1]]), np.array([[True], [True], [False], [False]]))
    assert found.tolist() == [0.875]


def test_files_that_are_wrong_are_named(tmp_path):
    path = tmp_path / "book.yaml"
    path.write_text("behaviours: {a: b}\npropositions:\n  - {id: x, text: y, desired: [c]}\n")
    with pytest.raises(ConfigError, match="names the behaviour 'c'"):
        read_rulebook(path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p", "completion": "c", "behaviour": "comply"}\n')
    with pytest.raises(DataError, match=r"line 1.*'propositions' is missing"):
        read_labelled(tmp_path / "rows.jsonl", BOOK)


def test_two_rewards_by_hand():
    """sigmoid(-1.8) = 0.142 is below 0.15, sigmoid(-1.7) = 0.154 is not."""
    helpful, safe = torch.tensor([2.0, 2.0, 2.0]), torch.tensor([-1.8, -1.7, 3.0])
    found = piecewise(helpful, safe, torch.tensor([False, False, True]), 0.15)
    assert found.tolist() == pytest.approx([-1.8, 2.0, 3.0])
    assert math.isfinite(piecewise(torch.tensor([99.0]), torch.tensor([99.0]), torch.tensor([False]), 0.15).item())


def test_two_rewards_are_whitened_on_samples_and_in_nats():
    class Fixed:
        def __init__(self, std, score):
            self.std, self.score = std, lambda rows: torch.tensor([score(row) for row in rows])

    two = TwoRewards(
        Fixed(2.0, lambda r: float(r[1])), Fixed(1.0, lambda r: -9.0 if r[1] == 5 else 9.0), lambda p: False
    )
    prompts, answers = [[0]] * 3, [[1], [3], [5]]
    assert two.nats(prompts, answers).tolist() == [2.0, 6.0, -9.0]
    white = two.whiten_on(prompts, answers)
    assert white.mean().item() == pytest.approx(0, abs=1e-6)
    assert white.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert two(prompts[:1], answers[:1]).item() == pytest.approx(white[0].item(), abs=1e-6)


def test_a_margin_goes_to_the_side_that_a_soft_target_favours():
    def margin(target):
        one = Ranking(((1, 2), (1, 3)), (1, 2), target, 4)
        return Groups.of([one], RewardConfig(strength_margin=0.5)).margin.item()

    assert [margin(t) for t in (None, 0.8, 0.2, 0.5)] == [1.5, 1.5, -1.5, 0.0]


def test_what_a_judge_does_not_grade_stops_or_is_lowest():
    rubric = Rubric("r", "good")
    refuses = ScriptedJudge(lambda _: Reply(None, reason="refusal"))
    with pytest.raises(JudgeError, match="did not grade answer 1 of 1"):
        ScoreReward(refuses, rubric)(PROMPT, "x")
    assert ScoreReward(refuses, rubric, ungraded="lowest")(PROMPT, "x") == -1.0
    away = ScriptedJudge(lambda _: Reply(None, reason="unreachable", final=False))
    with pytest.raises(JudgeError, match="unreachable"):
        ScoreReward(away, rubric, ungraded="lowest")(PROMPT, "x")
