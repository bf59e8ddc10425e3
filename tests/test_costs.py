"""What a step costs, in figures that no machine changes: passes, tokens, logits, padding, bytes kept for the way back.

The counts are exact, the bytes are what torch 2.13 keeps at most. A change that adds a pass, a token, a logit or a copy
fails here; one that saves some sets the smaller number.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tutelage.learn.dpo import DPOConfig, dpo
from tutelage.learn.group import GroupConfig, group
from tutelage.learn.learner import OptimizerConfig
from tutelage.learn.ppo import PPOConfig, ppo
from tutelage.learn.preference import Preference
from tutelage.learn.reward import Groups, Ranking, RewardConfig, RewardModel, reward_loss, train_reward
from tutelage.learn.sft import SFTConfig, batches, sft, sft_loss
from tutelage.model.adapters import Full, Lora, Top, branch
from tutelage.model.batch import Example
from tutelage.model.causal import Model
from tutelage.model.heads import Head, Policy, Scorer
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.runs import Run
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import SamplingParams

VOCABULARY, WIDTH, LAYERS, HEADS = 260, 32, 2, 4
NEVER = -1
RATE = OptimizerConfig(learning_rate=1e-3)
QUIET = {"evaluate_every": 0, "optimizer": RATE}


class Costs(TorchDispatchMode):
    """Counts what runs within it."""

    def __init__(self):
        super().__init__()
        self.passes = self.tokens = self.layer_rows = self.logits = self.attended = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket._qualified_op_name
        if name == "aten::embedding":
            self.passes += 1
            self.tokens += args[1].numel()
        elif name == "aten::mm" and args[0].shape[1] == WIDTH:
            wide = args[1].shape[1]
            self.layer_rows += args[0].shape[0] * (wide == 4 * WIDTH)  # gate and up together: once a layer
            self.logits += args[0].shape[0] * (wide == VOCABULARY)
        elif name == "aten::_softmax" and args[0].dim() == 3:
            self.attended += args[0].numel()
        return out

    def seen(self):
        """Passes, tokens embedded, rows through the lower and the upper layer together, rows of logits, scores of
        attention by layer and head."""
        assert self.attended % (LAYERS * HEADS) == 0
        return self.passes, self.tokens, self.layer_rows, self.logits, self.attended // (LAYERS * HEADS)


def tiny():
    return Model(tiny_decoder(VOCABULARY, layers=LAYERS, width=WIDTH), tiny_tokenizer(), "tiny")


def costs_of(what):
    with Costs() as costs:
        what()
    return costs.seen()


def kept_bytes(parameters, what):
    """Bytes of all storages that are kept for the way back, weights not counted."""
    owned = {p.untyped_storage().data_ptr() for p in parameters}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = what()
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


def examples():
    """Three demonstrations that begin alike: 7 tokens of prompt, 3, 5 and 6 of completion."""
    return [
        Example((1, 2, 3, 4, 5, 6, i, *range(20, 20 + n)), (False,) * 7 + (True,) * n)
        for i, n in ((10, 3), (11, 5), (12, 6))
    ]


def fours():
    """Two rankings of 4, a prompt of 5 tokens, completions of 2, 3, 4 and 5 that begin differently."""
    return [
        Ranking(tuple((p, 2, 3, 4, 5, *range(30 + k * 10, 32 + k * 11)) for k in range(4)), (1, 2, 3, 4), None, None)
        for p in (8, 9)
    ]


def test_sft_makes_one_pass_and_no_padding(tmp_path):
    config = SFTConfig(steps=1, batch_size=3, **QUIET)
    # whole: 10 + 12 + 13 tokens; the 6 that all begin with are there once; attention: 3 rows of at most 13 queries of
    # their own, and beside as many keys the 6 shared ones (what a small rectangle wastes is cheaper than another one)
    # 14 trained tokens: only they go through the last layer to its end; their logits on the way there and, the output
    # matrix being trained, again on the way back
    run = Run.start(tmp_path, "sft", config)
    assert costs_of(lambda: sft(tiny(), examples(), config, run)) == (1, 35 - 12, 35 - 12 + 14, 2 * 14, 3 * 13 * 19)


def test_a_frozen_output_matrix_needs_its_logits_once(tmp_path):
    config = SFTConfig(steps=1, batch_size=3, train=Top(layers=1), **QUIET)
    run = Run.start(tmp_path, "sft", config)
    assert costs_of(lambda: sft(tiny(), examples(), config, run)) == (1, 23, 23 + 14, 14, 741)


def test_a_reward_update_reads_each_prompt_once():
    scorer = Scorer(tiny().decoder, Head.reward(WIDTH, torch.Generator()))
    groups = Groups.of(fours(), RewardConfig())

    def update():
        reward_loss(scorer, groups, RewardConfig())[0].backward()

    # a prompt of 5 and 2 + 3 + 4 + 5 tokens, twice; whole sequences would be 68 tokens; 8 rows of at most 7 queries; of
    # each of the 8 sequences the last token goes to the end
    assert costs_of(update) == (1, 2 * (5 + 14), 2 * (5 + 14) + 8, 0, 8 * 7 * 12)


def test_training_a_reward_model_adds_one_pass_for_the_scale(tmp_path):
    config = RewardConfig(steps=2, batch_size=2, **QUIET)
    run = Run.start(tmp_path, "reward", config)
    assert costs_of(lambda: train_reward(tiny(), fours(), config, run)) == (3, 3 * 38, 3 * (38 + 8), 0, 3 * 672)


def test_dpo_asks_its_reference_once_a_run(tmp_path):
    config = DPOConfig(steps=3, batch_size=2, **QUIET)
    run = Run.start(tmp_path, "dpo", config)
    items = [Preference(r, 5) for r in fours()]
    # four passes: the reference's, and one a step; 28 completion tokens, whose logits a step needs twice
    assert costs_of(lambda: dpo(tiny(), items, config, run)) == (4, 4 * 38, 4 * (38 + 28), 28 + 3 * 2 * 28, 4 * 672)


def sampled(prompts, max_tokens, slots=64):
    engine = Engine(tiny().decoder, NEVER)
    return costs_of(lambda: engine.generate(prompts, SamplingParams(max_tokens=max_tokens, slots=slots), seed=0))


def test_a_sampled_token_is_fed_once_and_the_last_never():
    # a pass a token; the prompts go with the first, in a rectangle; every pass gives logits for its rows alone; rows
    # look back into a room of 16
    assert sampled([[1, 2, 3, 4], [5, 6]], 3) == (3, 6 + 2 * 2, 6 + 2 + 2 * 2 * 2, 3 * 2, 2 * 4 * 4 + 2 * 2 * 16)


def test_equal_prompts_are_read_once():
    assert sampled([[1, 2, 3, 4]] * 3, 3) == (3, 4 + 2 * 3, 4 + 3 + 2 * 2 * 3, 3 * 3, 4 * 4 + 2 * 3 * 16)


def test_a_prompt_that_waits_costs_no_pass_of_its_own():
    # two slots, three prompts of 2 tokens, 4 new ones each: 4 passes, then 4 for the last
    assert sampled([[1, 2], [3, 4], [5, 6]], 4, slots=2)[0] == 8


PROMPTS = [[1, 2, 3], [4, 5, 6]]
SAMPLING = {"max_tokens": 4}
ROLLOUT = 3 + 4  # tokens of a prompt and of its response


def ppo_costs(tmp_path, shared):
    model = tiny()
    train = Top(layers=1) if shared else Full()
    scorer = Scorer(branch(model.decoder, train, torch.Generator()), Head.reward(WIDTH, torch.Generator()))
    reward = RewardModel(scorer.requires_grad_(False), model.tokenizer, 0.0, 1.0)
    config = PPOConfig.model_validate(
        {"steps": 1, "batch_size": 2, "epochs": 3, "sampling": SAMPLING, "train": train,
         "critic": "features" if shared else "separate", **QUIET}
    )  # fmt: skip
    run = Run.start(tmp_path, "ppo", config)
    capture = 1 if shared else None
    engine = Engine(model.decoder, NEVER, capture=capture)
    return costs_of(lambda: ppo(model, reward, PROMPTS, config, run, sampler=engine))


def test_ppo_with_four_networks(tmp_path):
    passes, tokens, through, logits, _ = ppo_costs(tmp_path, shared=False)
    # 4 of the sampler; reference, reward model and critic once each; policy and critic in each of 3 epochs
    assert passes == 4 + 3 + 3 * 2
    assert tokens == (2 * 3 + 3 * 2) + (3 + 3 * 2) * 2 * ROLLOUT
    # the upper layer to its end: sampled rows; the 8 answered tokens, and for the reward model the 2 last ones too
    assert through == tokens + 4 * 2 + (3 + 3 * 2) * 8 + 2
    assert logits == 4 * 2 + 8 + 3 * 2 * 8  # sampled, reference, and twice an epoch: the output matrix is trained


def test_ppo_over_a_shared_trunk_reads_the_lower_layers_in_the_sampler_alone(tmp_path):
    passes, tokens, through, logits, _ = ppo_costs(tmp_path, shared=True)
    assert passes == 5  # of the sampler: the last token is fed too, for its hidden state
    assert tokens == 2 * 3 + 4 * 2
    # the sampler's 14 tokens below and what it draws from above; reference, reward model and 3 epochs' policy above
    assert through == 14 + 5 * 2 + (2 + 3) * 8 + 2
    assert logits == 5 * 2 + 8 + 3 * 8  # one more of the sampler; the frozen matrix needs them once an epoch


def test_groups_share_their_prompt_where_they_lie_side_by_side(tmp_path):
    config = GroupConfig.model_validate(
        {"steps": 1, "batch_size": 4, "group_size": 2, "epochs": 2, "sampling": SAMPLING, **QUIET}
    )
    run, model = Run.start(tmp_path, "group", config), tiny()

    def reward(prompts, responses):
        return torch.arange(len(responses)).float()

    engine = Engine(model.decoder, NEVER)
    found = costs_of(lambda: group(model, reward, PROMPTS, config, run, sampler=engine))
    passes, tokens, through, logits, _ = found
    assert passes == 4 + 1 + 2
    assert logits == 4 * 4 + 16 + 2 * 2 * 16
    assert tokens == (2 * 3 + 3 * 4) + 3 * (2 * 3 + 4 * 4)
    assert through == tokens + 4 * 4 + 3 * 16


def test_bytes_kept_for_the_way_back():
    batch = batches(examples(), 4096)[0]
    full, adapted = tiny().decoder, branch(tiny().decoder, Lora(rank=4), torch.Generator())
    top = branch(tiny().decoder, Top(layers=1), torch.Generator())
    per_token = {}
    for name, decoder in {"full": full, "lora": adapted, "top": top}.items():
        policy = Policy(decoder)
        kept = kept_bytes(decoder.parameters(), lambda p=policy: sft_loss(p, batch)[0])
        per_token[name] = kept / len(batch.packed.tokens)
    assert {name: per_token[name] <= most for name, most in MOST_BYTES.items()} == dict.fromkeys(MOST_BYTES, True)
    assert per_token["top"] < 0.55 * per_token["full"], "nothing below the trained layer is kept"


MOST_BYTES = {"full": 6649, "lora": 5990, "top": 3381}  # a token, of which 128 are its hidden state in fp32
