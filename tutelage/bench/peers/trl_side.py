"""TRL's trainers as their users run them, with the options that make them fastest on this machine.

    python trl_side.py TASK.json

Runs in an environment with TRL (1.16 or later; for PPO 1.12.0, the last that has it). Gradient checkpointing is off,
DPO's reference is computed once. PPO's four networks are those of `ppo`.
"""

import json
import math
import sys
import tempfile
from pathlib import Path

import torch
import transformers
import trl
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from turns import Turns

transformers.logging.set_verbosity_error()
task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
turns = Turns()
tokenizer = AutoTokenizer.from_pretrained(task["model"])
if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token


def policy():
    return AutoModelForCausalLM.from_pretrained(task["model"], dtype=torch.float32)


def scorer():
    """The head is drawn as ours is."""
    model = AutoModelForSequenceClassification.from_pretrained(task["model"], num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    width = model.config.hidden_size
    drawn = torch.randn(1, width, generator=torch.Generator().manual_seed(0)) / math.sqrt(width + 1)
    model.score.weight.data.copy_(drawn)
    return model


def arguments(accumulate=1):
    return {
        "output_dir": tempfile.mkdtemp(),
        "use_cpu": not torch.cuda.is_available(),
        "bf16": task["dtype"] == "bfloat16",
        "gradient_checkpointing": False,
        "torch_compile": task["way"] == "compiled",
        "per_device_train_batch_size": task["batch"],
        "gradient_accumulation_steps": accumulate,
        "learning_rate": task["learning_rate"],
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 0,
    }


def in_order(accumulate=1):
    """For the trainers that still read their data in the order given."""
    return arguments(accumulate) | {"max_steps": task["total_steps"], "train_sampling_strategy": "sequential"}


class Clock(TrainerCallback):
    """Waits for its turn before the first step and after those it was asked for."""

    losses = ()

    def on_train_begin(self, args, state, control, **_):
        versions = {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}
        turns.ready(**versions)

    def on_log(self, args, state, control, logs=None, **_):
        if logs and "loss" in logs:
            self.losses = (*self.losses, float(logs["loss"]))

    def on_step_end(self, args, state, control, **_):
        turns.step(self.losses, last=state.global_step >= task["total_steps"])


def sft(clock):
    rows = [
        {"input_ids": prompt + answers[0], "labels": [-100] * len(prompt) + answers[0]}
        for prompt, answers in zip(task["prompts"], task["answers"], strict=True)
    ]
    config = trl.SFTConfig(**in_order(), max_length=None, padding_free=task["way"] == "padding_free")
    return trl.SFTTrainer(
        policy(), args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[clock]
    )


def reward(clock):
    """Rankings go in as all their pairs, which is the one form that the trainer takes."""
    rows = [
        {"chosen_ids": prompt + better, "rejected_ids": prompt + worse}
        for prompt, answers in zip(task["prompts"], task["answers"], strict=True)
        for i, better in enumerate(answers)
        for worse in answers[i + 1 :]
    ]
    pairs = len(rows) // len(task["prompts"])
    config = trl.RewardConfig(**in_order(pairs), max_length=None)
    return trl.RewardTrainer(
        scorer(), args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[clock]
    )


def dpo(clock):
    class Tokenized(trl.DPOTrainer):
        """The data has been tokenized: nothing is to be added to it."""

        def _prepare_dataset(self, dataset, *_, **__):
            return dataset

    rows = [
        {"prompt_ids": prompt, "chosen_ids": answers[0], "rejected_ids": answers[1]}
        for prompt, answers in zip(task["prompts"], task["answers"], strict=True)
    ]
    config = trl.DPOConfig(**in_order(), max_length=None, precompute_ref_log_probs=True, beta=0.1)
    return Tokenized(
        policy(), args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[clock]
    )


def ppo(clock):
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer.padding_side = "left"
    networks = policy(), policy(), scorer(), scorer()
    for network in networks:
        network.config.pad_token_id = tokenizer.pad_token_id
    data = Dataset.from_list([{"input_ids": prompt} for prompt in task["prompts"]])
    config = PPOConfig(
        **arguments(),
        total_episodes=task["total_steps"] * task["batch"],
        num_ppo_epochs=task["epochs"],
        num_mini_batches=1,
        response_length=task["new_tokens"],
        local_rollout_forward_batch_size=task["batch"],
        num_sample_generations=0,
        temperature=0.7,
        stop_token=None,
    )
    model, reference, value, judge = networks
    return PPOTrainer(
        args=config, processing_class=tokenizer, model=model, ref_model=reference, reward_model=judge,
        value_model=value, train_dataset=data, eval_dataset=data.select(range(2)), callbacks=[clock],
    )  # fmt: skip


TRAINERS = {"sft": sft, "reward": reward, "reward4": reward, "dpo": dpo, "ppo": ppo, "ppo_shared": ppo}
clock = Clock()
TRAINERS[task["row"]](clock).train()
turns.finish(clock.losses if task["row"] not in ("ppo", "ppo_shared") else ())
