"""The reward model: exact losses, where it reads, and that it learns what it is told and not the opposite."""

import math

import pytest
import torch

from tutelage.config import Section
from tutelage.errors import ModelError, TrainingError
from tutelage.learn.learner import OptimizerConfig
from tutelage.learn.reward import (
    Groups,
    Ranking,
    RewardConfig,
    RewardModel,
    load_reward,
    margins,
    reward_loss,
    train_reward,
)
from tutelage.model.batch import Packed
from tutelage.model.causal import Model
from tutelage.model.heads import Head, Scorer
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.runs import Run


def ranking(ranks, target=None, strength=None, at=0):
    rows = tuple(tuple(range(3 + at, 6 + at + i)) for i in range(len(ranks)))
    return Ranking(sequences=rows, ranks=tuple(ranks), target=target, strength=strength)


class FixedScorer(torch.nn.Module):
    """Scores given in advance."""

    def __init__(self, scores):
        super().__init__()
        self.scores = torch.tensor(scores)

    def forward(self, packed, index):
        return type("S", (), {"score": self.scores})


def loss_of(scores, rankings, **config):
    config = RewardConfig(**config)
    loss, logged = reward_loss(FixedScorer(scores), Groups.of(rankings, config), config)
    return float(loss), {k: float(v) for k, v in logged.items()}


def nll(margin):
    return math.log1p(math.exp(-margin))


def test_a_pair_is_bradley_terry():
    loss, logged = loss_of([1.0, 0.25], [ranking([1, 2])])
    assert loss == pytest.approx(nll(0.75), abs=1e-6)
    assert logged["reward/accuracy"] == 1
    assert loss_of([0.0, 0.0], [ranking([1, 2])])[0] == pytest.approx(math.log(2), abs=1e-6)


def test_all_pairs_of_a_prompt_weigh_one_in_all():
    loss, logged = loss_of([1.0, 3.0, 2.0], [ranking([2, 1, 3])])
    pairs = [nll(3 - 1), nll(3 - 2), nll(1 - 2)]
    assert loss == pytest.approx(sum(pairs) / 3, abs=1e-6)
    assert logged["reward/accuracy"] == pytest.approx(2 / 3)


def test_ties_soft_targets_noise_and_margins():
    assert loss_of([1.0, 0.0], [ranking([1, 1])])[0] == pytest.approx((nll(1) + nll(-1)) / 2, abs=1e-6)
    soft = loss_of([1.0, 0.0], [ranking([1, 2], target=0.3)])[0]
    assert soft == pytest.approx(0.3 * nll(1) + 0.7 * nll(-1), abs=1e-6)
    noisy = loss_of([1.0, 0.0], [ranking([1, 2])], label_noise=0.1)[0]
    assert noisy == pytest.approx(0.9 * nll(1) + 0.1 * nll(-1), abs=1e-6)
    strong = loss_of([1.0, 0.0], [ranking([1, 2], strength=3)], strength_margin=0.5)[0]
    assert strong == pytest.approx(nll(1 - 1.0), abs=1e-6)


def test_the_order_of_the_completions_does_not_matter():
    flipped = Ranking(ranking([1, 2]).sequences, (2, 1), None, None)
    assert loss_of([0.0, 1.0], [flipped])[0] == pytest.approx(loss_of([1.0, 0.0], [ranking([1, 2])])[0])


def test_groups_are_sums_over_prompts():
    both = loss_of([1.0, 0.0, 0.5, 1.5, -1.0], [ranking([1, 2]), ranking([1, 2, 3])])[0]
    parts = loss_of([1.0, 0.0], [ranking([1, 2])])[0] + loss_of([0.5, 1.5, -1.0], [ranking([1, 2, 3])])[0]
    assert both == pytest.approx(parts, abs=1e-6)


@pytest.mark.parametrize("micro_tokens", [1, 10_000])
def test_accuracy_is_of_decided_pairs_however_a_batch_is_cut(tmp_path, micro_tokens):
    """A micro-batch of ties once counted as one in which everything was wrong."""
    model = Model(tiny_decoder(260), tiny_tokenizer(), "tiny")
    rows = [ranking([1, 1], at=2 * i) for i in range(4)] + [ranking([1, 2], target=p) for p in (1.0, 1.0, 0.0)]
    config = RewardConfig(steps=1, batch_size=7, micro_tokens=micro_tokens, evaluate_every=0)
    run = Run.start(tmp_path, "reward", config)
    train_reward(model, rows, config, run)
    right = run.metrics()[0]["reward/accuracy"]
    assert min(abs(right - 2 / 3), abs(right - 1 / 3)) < 1e-6  # of three equal pairs two say one thing


def test_a_batch_of_ties_has_no_accuracy(tmp_path):
    model = Model(tiny_decoder(260), tiny_tokenizer(), "tiny")
    config = RewardConfig(steps=2, batch_size=1, evaluate_every=0)
    run = Run.start(tmp_path, "reward", config)
    train_reward(model, [ranking([1, 1]), ranking([1, 2])], config, run)
    assert sorted("reward/accuracy" in row for row in run.metrics()) == [False, True]
    assert "reward/decided" not in run.metrics()[0]


def test_nothing_has_no_scores():
    decoder = tiny_decoder(260)
    scorer = Scorer(decoder, Head.reward(32, torch.Generator().manual_seed(0)))
    assert RewardModel(scorer, tiny_tokenizer(), 0.5, 2.0).score([]).tolist() == []


def test_plackett_luce_option_for_pairs_is_the_same():
    pl = loss_of([1.0, 0.25], [ranking([1, 2])], loss="plackett_luce")[0]
    assert pl == pytest.approx(nll(0.75), abs=1e-6)


def test_the_score_is_read_at_the_last_token():
    decoder = tiny_decoder(260)
    head = Head.reward(32, torch.Generator().manual_seed(0))
    groups = Groups.of([ranking([1, 2, 3])], RewardConfig())
    with torch.no_grad():
        score = Scorer(decoder, head)(groups.packed, groups.packed.last).score
        ends = torch.cat([decoder(Packed.of([s]))[-1:] for s in groups.rankings[0].sequences])
        assert torch.allclose(score, ends @ head.weight[0], atol=1e-6)


def world(negated):
    """Texts of small letters; more `a` is better."""
    g = torch.Generator().manual_seed(0)
    found = []
    for _ in range(96):
        rows = torch.randint(97, 101, (3, 6), generator=g).tolist()
        good = [-sum(t == 97 for t in row) for row in rows]
        ranks = tuple(1 + sum(other < mine for other in good) for mine in good)
        if negated:
            ranks = tuple(4 - r for r in ranks)
        found.append(Ranking(tuple((10, *row) for row in rows), ranks, None, None))
    return found


class Nothing(Section):
    """No settings."""


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_a_taste_and_not_its_opposite(tmp_path, seed):
    model = Model(tiny_decoder(260), tiny_tokenizer(), "tiny")
    config = RewardConfig(
        steps=40, batch_size=16, optimizer=OptimizerConfig(learning_rate=5e-3), evaluate_every=0, seed=seed
    )
    right, wrong = world(False), world(True)
    reward = train_reward(model, right[:64], config, Run.start(tmp_path, "reward", config))
    assert float((margins(reward, right[64:]) > 0).float().mean()) > 0.85
    assert float((margins(reward, wrong[64:]) > 0).float().mean()) < 0.25
    scores = reward.score([s for r in right[:64] for s in r.sequences])
    assert float(scores.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scores.std(correction=0)) == pytest.approx(1, abs=1e-4)
    again = load_reward(tmp_path / next(tmp_path.iterdir()).name / "model")
    again.scorer.decoder.compute_in(torch.float32)  # loaded in the machine's best format
    assert torch.allclose(again.score([right[70].sequences[0]]), reward.score([right[70].sequences[0]]), atol=1e-5)


def test_rankings_that_decide_nothing_are_an_error(tmp_path):
    model = Model(tiny_decoder(260), tiny_tokenizer(), "tiny")
    config = RewardConfig()
    with pytest.raises(TrainingError, match="none of the 2 rankings"):
        train_reward(model, [ranking([1, 1]), ranking([2, 2])], config, Run.start(tmp_path, "reward", config))


def test_a_folder_without_a_reward_model_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="no reward model"):
        load_reward(tmp_path)
