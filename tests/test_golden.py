"""Golden curves: the numbers of every algorithm on a tiny model, one thread, fp32, as they were when last looked at.

A commit that says "numbers unchanged" keeps them. One that changes them on purpose runs `python tests/test_golden.py`,
which writes them anew, and shows the difference.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from tutelage.learn.best_of_n import RaftConfig, raft
from tutelage.learn.dpo import DPOConfig, dpo
from tutelage.learn.group import GroupConfig, group
from tutelage.learn.kto import opinions, split
from tutelage.learn.learner import OptimizerConfig
from tutelage.learn.ppo import PPOConfig, ppo
from tutelage.learn.preference import Preference
from tutelage.learn.reward import Ranking, RewardConfig, train_reward
from tutelage.learn.sft import SFTConfig, sft
from tutelage.model.batch import Example
from tutelage.model.causal import Model
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.runs import Run

GOLDEN = Path(__file__).parent / "golden"
RATE = OptimizerConfig(learning_rate=3e-3, warmup_steps=1)
LEAST_CURVES, LEAST_NUMBERS = 5, 250


def tiny() -> Model:
    """A fresh model, always the same."""
    return Model(tiny_decoder(260, layers=2), tiny_tokenizer(), "tiny")


def run_sft(folder: Path) -> Run:
    config = SFTConfig(steps=6, batch_size=3, micro_tokens=12, optimizer=RATE, evaluate_every=3)
    run = Run.start(folder, "sft", config)
    examples = [Example((65, 66 + i, 70 + i, 97, 258), (False, False, True, True, True)) for i in range(7)]
    sft(tiny(), examples, config, run, evaluation=examples[:2])
    return run


def rankings() -> list[Ranking]:
    """Threes and pairs, with ties, a soft target and a strength."""
    threes = [Ranking(((65, 70 + i), (65, 80 + i, 90), (65, 97)), (1, 2, 2), None, None) for i in range(5)]
    return [*threes, Ranking(((66, 70), (66, 71)), (1, 2), 0.7, None), Ranking(((67, 70), (67, 71)), (2, 1), None, 3)]


def run_reward(folder: Path) -> Run:
    config = RewardConfig(
        steps=6, batch_size=3, micro_tokens=20, optimizer=RATE, evaluate_every=3, label_noise=0.1, strength_margin=0.2
    )
    run = Run.start(folder, "reward", config)
    train_reward(tiny(), rankings(), config, run, evaluation=rankings()[:3])
    return run


def run_ppo(folder: Path) -> Run:
    quick = RewardConfig(steps=2, batch_size=3, optimizer=RATE, evaluate_every=0)
    reward = train_reward(tiny(), rankings(), quick, Run.start(folder, "reward", quick))
    config = PPOConfig.model_validate(
        {"steps": 4, "batch_size": 8, "epochs": 2, "minibatches": 2, "sampling": {"max_tokens": 6}, "ptx_weight": 0.5,
         "ptx_batch": 2, "kl": {"coefficient": 0.1, "target": 0.5, "horizon": 50}, "optimizer": RATE, "ema": 0.9,
         "evaluate_every": 2}
    )  # fmt: skip
    run = Run.start(folder, "ppo", config)
    prompts = [[65 + i, 66] for i in range(12)]
    ptx = [Example((65, 97, 258), (False, True, True)), Example((66, 98, 258), (False, True, True))]
    ppo(tiny(), reward, prompts, config, run, held_out=prompts[:3], ptx=ptx)
    return run


def likes_even(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> torch.Tensor:
    """The share of even tokens."""
    return torch.tensor([sum(t % 2 == 0 for t in r) / len(r) for r in responses])


def run_group(folder: Path) -> Run:
    config = GroupConfig.model_validate(
        {"steps": 4, "batch_size": 8, "group_size": 4, "epochs": 2, "minibatches": 2, "sampling": {"max_tokens": 6},
         "advantage": {"kind": "grpo"}, "kl_in": "loss", "kl_loss": "k3", "average": "response", "clip_higher": 0.28,
         "kl": {"coefficient": 0.1, "target": 0.5, "horizon": 50}, "optimizer": RATE, "evaluate_every": 2}
    )  # fmt: skip
    run = Run.start(folder, "group", config)
    prompts = [[65 + i, 66] for i in range(12)]
    group(tiny(), likes_even, prompts, config, run, held_out=prompts[:3])
    return run


def run_raft(folder: Path) -> Run:
    config = RaftConfig.model_validate(
        {"rounds": 3, "prompts": 4, "samples": 3, "steps": 2, "batch_size": 4, "sampling": {"max_tokens": 6},
         "optimizer": RATE}
    )  # fmt: skip
    run = Run.start(folder, "raft", config)
    probe = [Example((65, 97, 258), (False, True, True))]
    raft(tiny(), likes_even, [[65 + i, 66] for i in range(12)], config, run, probe=probe)
    return run


def run_dpo(folder: Path, kind: str = "dpo") -> Run:
    config = DPOConfig.model_validate(
        {"steps": 6, "batch_size": 3, "micro_tokens": 20, "loss": {"kind": kind}, "sft_weight": 0.2, "optimizer": RATE,
         "evaluate_every": 3}
    )  # fmt: skip
    run = Run.start(folder, "dpo", config)
    rows = [Preference(ranking, 1) for ranking in rankings()]
    opinion = opinions([one for row in rows for one in split(row)], 0, 100)
    items = opinion if kind == "kto" else rows
    dpo(tiny(), items, config, run, evaluation=items[:3])
    return run


def run_kto(folder: Path) -> Run:
    return run_dpo(folder, "kto")


CURVES: dict[str, Callable[[Path], Run]] = {
    "sft": run_sft, "reward": run_reward, "ppo": run_ppo, "dpo": run_dpo, "kto": run_kto, "group": run_group,
    "raft": run_raft,
}  # fmt: skip


def curve(name: str) -> list[dict[str, float]]:
    """Every metric of every step."""
    with tempfile.TemporaryDirectory() as folder:
        return CURVES[name](Path(folder)).metrics()


def test_every_golden_curve_is_kept() -> None:
    """One test for all, without a condition to skip it, so that it cannot pass because nothing ran."""
    assert torch.get_num_threads() == 1
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(CURVES)
    compared = 0
    for name in CURVES:
        golden, found = json.loads((GOLDEN / f"{name}.json").read_text()), curve(name)
        assert [set(step) for step in found] == [set(step) for step in golden], name
        for now, then in zip(found, golden, strict=True):
            for metric, value in then.items():
                assert now[metric] == pytest.approx(value, rel=1e-3, abs=1e-5), f"{name}, step {then['step']}: {metric}"
                compared += 1
    assert len(CURVES) >= LEAST_CURVES
    assert compared >= LEAST_NUMBERS


if __name__ == "__main__":
    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    for each in CURVES:
        (GOLDEN / f"{each}.json").write_text(json.dumps(curve(each), indent=1) + "\n", encoding="utf-8")
