"""SFT and the reward model, stopped in the middle and resumed, end where the run that was never stopped ends."""

import pytest
import torch

from tutelage.learn.learner import Learner, OptimizerConfig
from tutelage.learn.reward import Ranking, RewardConfig, train_reward
from tutelage.learn.sft import SFTConfig, sft
from tutelage.model.batch import Example
from tutelage.model.causal import Model, fingerprint
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.runs import Run

RATE = OptimizerConfig(learning_rate=1e-2)
EXAMPLES = [Example((65, 66 + i, 70 + i), (False, True, True)) for i in range(7)]
RANKINGS = [Ranking(((65, 66 + i), (65, 80 + i, 90)), (1, 2), None, None) for i in range(7)]


def stage(name, run):
    """One whole stage into the run; its weights' hash and its metrics."""
    model = Model(tiny_decoder(260), tiny_tokenizer(), "tiny")
    if name == "sft":
        decoder = sft(model, EXAMPLES, run.config, run).decoder
    else:
        decoder = train_reward(model, RANKINGS, run.config, run).scorer.decoder
    return fingerprint(decoder), run.metrics()


def start(name, root):
    settings = {"steps": 7, "batch_size": 3, "optimizer": RATE, "save_every": 2, "evaluate_every": 0}
    config = (SFTConfig if name == "sft" else RewardConfig).model_validate(settings)
    run = Run.start(root, name, config)
    run.config = config
    return run


@pytest.mark.parametrize("name", ["sft", "reward"])
@pytest.mark.parametrize("killed_at", [2, 6])
def test_resumed_is_bit_equal(tmp_path, monkeypatch, name, killed_at):
    straight = stage(name, start(name, tmp_path / "straight"))
    run, real, calls = start(name, tmp_path / "stopped"), Learner.update, [0]

    def stops(self, *parts):
        calls[0] += 1
        if calls[0] == killed_at:
            raise KeyboardInterrupt
        return real(self, *parts)

    monkeypatch.setattr(Learner, "update", stops)
    with pytest.raises(KeyboardInterrupt):
        stage(name, run)
    monkeypatch.undo()
    again = Run.open(run.path)
    again.config = run.config
    assert stage(name, again) == straight
    assert len(straight[1]) == 7
    assert straight[0] != fingerprint(tiny_decoder(260))
    assert torch.get_num_threads() == 1
