"""The same numbers on CUDA as on the CPU. Nothing here runs where there is no GPU."""

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engine import END, FAMILIES, LLAMA, decoder_of, lora, prompts_of

from tutelage.bench import ours
from tutelage.bench.work import ROWS, BenchConfig, RowName, task
from tutelage.errors import Interrupted
from tutelage.learn.ppo import PPOConfig, ppo
from tutelage.learn.ppo_state import PPOState
from tutelage.learn.reward import RewardModel
from tutelage.learn.rollout import Rollout
from tutelage.learn.sft import sft_loss
from tutelage.model.adapters import Top, branch
from tutelage.model.attention import Products
from tutelage.model.batch import Batch, Example, Packed
from tutelage.model.causal import Model, best_pieces
from tutelage.model.decoder import Decoder
from tutelage.model.fused_attention import Varlen
from tutelage.model.heads import Head, Policy, Scorer
from tutelage.model.maths import token_logprobs
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.runs import Run
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import SamplingParams

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
GPU = torch.device("cuda")


def moved(decoder: Decoder, compute: torch.dtype = torch.float32) -> Decoder:
    """A copy on CUDA, with the pieces that are used there."""
    return copy.deepcopy(decoder).to(GPU).compute_in(compute).use(best_pieces(GPU))


@pytest.mark.parametrize("family", [*FAMILIES, "lora"])
@torch.no_grad()
def test_log_probs_are_the_cpus(family: str) -> None:
    decoder = lora() if family == "lora" else decoder_of(FAMILIES[family])
    packed = Packed.of(prompts_of(9), share=True)
    found = {}
    for name, one in (("cpu", decoder), ("cuda", moved(decoder)), ("bf16", moved(decoder, torch.bfloat16))):
        hidden, head = one(packed), one.head_weight()
        target = packed.tokens.roll(1).to(hidden.device)
        low = head.to(one.compute)
        found[name] = token_logprobs(hidden, head, target, temperature=0.7, low=low, pieces=one.pieces)
    for i in range(2):  # log-probs and entropies
        torch.testing.assert_close(found["cuda"][i].cpu(), found["cpu"][i], atol=1e-4, rtol=1e-4)
        difference = (found["bf16"][i].cpu() - found["cpu"][i]).abs()
        assert float(difference.mean()) < 0.1


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("share", [False, True])
def test_attention_over_packed_rows(window: int | None, share: bool) -> None:
    packed = Packed.of([[1, 2, 3, *range(n)] for n in (30, 5, 64, 17)], share=share)
    g = torch.Generator().manual_seed(0)
    exact = [torch.randn(len(packed.tokens), a, 16, generator=g).requires_grad_() for a in (6, 2, 2)]
    push = torch.randn(len(packed.tokens), 96, generator=g)
    want = Products(packed, window)(*exact)
    rounded = [x.detach().to(GPU, torch.bfloat16).requires_grad_() for x in exact]
    found = Varlen(packed, window, GPU)(*rounded)
    slopes = torch.autograd.grad(want, exact, push)
    pulled = torch.autograd.grad(found, rounded, push.to(GPU, torch.bfloat16))
    for one, other in zip((found, *pulled), (want, *slopes), strict=True):
        assert float((one.detach().float().cpu() - other.detach()).norm() / other.detach().norm()) < 0.01


@pytest.mark.parametrize("family", [*FAMILIES, "lora"])
@pytest.mark.parametrize("capture", [None, 2])
def test_what_is_drawn_is_the_cpus(family: str, capture: int | None) -> None:
    decoder = lora() if family == "lora" else decoder_of(FAMILIES[family])
    prompts, params = prompts_of(60), SamplingParams(max_tokens=24, slots=32)
    wanted = Engine(decoder, END, capture=capture).generate(prompts, params, seed=3)
    sampler = Engine(moved(decoder), END, capture=capture)
    for _ in range(2):  # graphs made, graphs kept
        found = sampler.generate(prompts, params, seed=3)
        same = [a.tokens == b.tokens for a, b in zip(found, wanted, strict=True)]
        assert sum(same) >= len(same) - 1  # a uniform number within rounding of a boundary may fall beyond it
        for a, b, equal in zip(found, wanted, same, strict=True):
            if equal:
                torch.testing.assert_close(a.logprobs, b.logprobs, atol=1e-4, rtol=1e-3)
                if a.hidden is not None and b.hidden is not None:
                    torch.testing.assert_close(a.hidden.cpu(), b.hidden, atol=1e-3, rtol=1e-3)
    assert sampler._kept


def test_weights_that_change_are_sampled_from() -> None:
    decoder, prompts = moved(decoder_of(LLAMA), torch.bfloat16), prompts_of(20)
    params = SamplingParams(max_tokens=12)
    sampler = Engine(decoder, END)
    first = sampler.generate(prompts, params, seed=1)
    for factor in (1.5, 2 / 3):
        with torch.no_grad():
            for layer in decoder.layers:
                layer.qkv.weight.mul_(factor)  # type: ignore[operator, union-attr]
        found = sampler.generate(prompts, params, seed=1)
        assert [s.tokens for s in found] == [s.tokens for s in Engine(decoder, END).generate(prompts, params, seed=1)]
    assert sum(a.tokens == b.tokens for a, b in zip(found, first, strict=True)) > 15


def test_gradients_are_the_cpus() -> None:
    texts = [Example(tuple(p), (False,) * (len(p) // 2) + (True,) * (len(p) - len(p) // 2)) for p in prompts_of(12)]
    batch = Batch.of([t for t in texts if len(t.tokens) > 1])
    slopes = {}
    for name, one in (("cpu", decoder_of(LLAMA)), ("cuda", moved(decoder_of(LLAMA)))):
        policy = Policy(one)
        sft_loss(policy, batch)[0].backward()  # type: ignore[no-untyped-call]
        slopes[name] = {key: p.grad for key, p in one.named_parameters()}
    for key, slope in slopes["cpu"].items():
        other = slopes["cuda"][key]
        assert slope is not None
        assert other is not None
        torch.testing.assert_close(other.cpu(), slope, atol=1e-3 * float(slope.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("row", [row for row in ROWS if row not in ("generate", "lengths")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_steps_of_every_way_to_train(row: RowName, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses as on the CPU in fp32; PPO, whose rollouts are drawn, runs and learns from them."""
    config = BenchConfig(steps=3, rounds=1, batch=4, prompt=6, shortest=3, longest=9, new_tokens=8, learning_rate=1e-3)
    work = task(row, config, model="", dtype="float32", vocabulary=LLAMA.vocab_size)
    work = dataclasses.replace(work, shape=dataclasses.asdict(LLAMA))
    losses: dict[str, list[float | None]] = {}
    real, learned = ours.optimise, list[bool]()  # of each of PPO's steps: whether all of the policy moved

    def watched(state: PPOState, *rest: Any) -> None:
        before = state.copy()
        real(state, *rest)
        learned.append(all(not torch.equal(p, before[n]) for n, p in state.policy_weights.items()))

    monkeypatch.setattr(ours, "optimise", watched)
    for name, number_format in (("cpu", "float32"), ("cuda", dtype)):
        monkeypatch.setattr(ours, "best_device", lambda name=name: torch.device(name))
        step = ours.STEPS[row](work, ours.network(dataclasses.replace(work, dtype=number_format)))
        losses[name] = [step(number) for number in range(work.total_steps)]
    if row in ("ppo", "ppo_shared"):
        assert losses["cuda"] == [None] * 4
        assert learned == [True] * 8
        return
    for one, other in zip(losses["cuda"], losses["cpu"], strict=True):
        assert one is not None
        assert other is not None
        assert math.isclose(one, other, rel_tol=1e-4 if dtype == "float32" else 2e-2)


def test_a_run_goes_on_from_a_checkpoint_in_the_middle_of_a_rollout(tmp_path: Path) -> None:
    """Its average, its best policy and the rollout's features are read onto the CPU, and belong beside the weights."""
    generator = torch.Generator().manual_seed(0)
    base = moved(tiny_decoder(260, layers=3))
    scorer = Scorer(branch(base, Top(layers=1), generator), Head.reward(32, generator).to(GPU))
    model, reward = Model(base, tiny_tokenizer(), "tiny"), RewardModel(scorer, tiny_tokenizer(), 0.0, 1.0)
    config = PPOConfig.model_validate(
        {"steps": 2, "batch_size": 4, "epochs": 2, "critic": "features", "train": {"kind": "top", "layers": 1},
         "ema": 0.9, "keep": "best", "evaluate_every": 1, "sampling": {"max_tokens": 5}}
    )  # fmt: skip
    run, prompts = Run.start(tmp_path, "ppo", config), [[65 + i, 66] for i in range(6)]

    def stop(rollout: Rollout) -> dict[str, float]:
        run.stop_requested = True
        return {}

    run.stop_requested = True
    for watch in (None, stop):  # after the first update; then with the first step measured
        with pytest.raises(Interrupted):
            ppo(model, reward, prompts, config, run, held_out=prompts[:2], watch=watch)
        run.stop_requested = False
    ppo(model, reward, prompts, config, run, held_out=prompts[:2])
    assert [row["step"] for row in run.metrics()] == [1, 2]
