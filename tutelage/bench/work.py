"""What is measured: the rows of the table, the data both sides read, and the environment both sides run in.

Token ids are made up and the same for both sides, in the same order; answers come best first.
"""

import json
import os
import platform
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from tutelage.allocator import SETTINGS
from tutelage.config import Section, Seed

RowName = Literal["sft", "reward", "reward4", "dpo", "ppo", "ppo_shared", "generate", "lengths"]
QUEUE = 4  # in the row `lengths`, this many times as many prompts as are decoded together


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    answers: int  # K completions of each prompt that the data holds
    peer: str  # which script of `peers/`, and below which of its ways; every way alternates with ours
    ways: tuple[str, ...]
    target: float  # how many times as fast as the peer's fastest way we mean to be


ROWS: dict[RowName, Row] = {
    "sft": Row("SFT", 1, "trl", ("padded", "padding_free", "compiled"), 4.0),
    "reward": Row("reward model, pairs", 2, "trl", ("padded", "compiled"), 3.0),
    "reward4": Row("reward model, rankings of 4", 4, "trl", ("padded", "compiled"), 4.0),
    "dpo": Row("DPO, reference computed once", 2, "trl", ("padded", "compiled"), 4.0),
    "ppo": Row("PPO, four networks", 0, "trl_ppo", ("padded", "compiled"), 5.0),
    "ppo_shared": Row("PPO, shared trunk (fewer networks trained)", 0, "trl_ppo", ("padded",), 8.0),
    "generate": Row("generation", 0, "transformers", ("dynamic", "static", "compiled"), 4.0),
    "lengths": Row("generation, lengths drawn", 0, "transformers", ("dynamic",), 6.0),
}


class BenchConfig(Section):
    """Sizes of the benchmark."""

    model: str = "smollm2-135m"
    """The model both sides load."""
    steps: Annotated[int, Field(ge=1)] = 5
    """Steps of each side in a round."""
    rounds: Annotated[int, Field(ge=1)] = 3
    """Rounds: in each, every side makes its steps in turn."""
    batch: Annotated[int, Field(ge=1)] = 8
    """Prompts a training step."""
    rows: Annotated[int, Field(ge=1)] = 32
    """Prompts a step of generation."""
    prompt: Annotated[int, Field(ge=1)] = 64
    """Tokens of a prompt."""
    shortest: Annotated[int, Field(ge=1)] = 32
    """Fewest tokens of an answer that is trained on."""
    longest: Annotated[int, Field(ge=1)] = 192
    """Most tokens of an answer that is trained on."""
    new_tokens: Annotated[int, Field(ge=1)] = 128
    """Tokens sampled for each prompt; in the row `lengths` the most of them, and an eighth of that the fewest."""
    micro_tokens: Annotated[int, Field(ge=1)] = 4096
    """Tokens of ours that go through the network at once, as in the settings of a run."""
    epochs: Annotated[int, Field(ge=1)] = 4
    """Passes over each of PPO's rollouts."""
    threads: Annotated[int, Field(ge=1)] = os.cpu_count() or 1
    """Threads of each side."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    """Constant, so that the losses of both sides can be compared."""
    spread: bool = True
    """Move each weight both sides load by up to 1/256 of itself, so that none lies exactly between two bf16 numbers."""
    tuned: bool = True
    """Give both sides the allocator settings that large freed blocks ask for."""
    seed: Seed = 0
    """Draws the data."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.shortest > self.longest:
            raise ValueError(f"shortest is {self.shortest} and longest {self.longest}: shortest is at most as much")
        return self


@dataclass(frozen=True)
class Task:
    """What a side is told to do, as the file it is given."""

    row: str
    way: str
    model: str
    dtype: str  # float32 or bfloat16: of the matrix products; weights and optimiser are fp32
    batch: int  # prompts a step
    slots: int  # rows decoded together
    total_steps: int
    new_tokens: int
    epochs: int
    micro_tokens: int  # ours alone
    learning_rate: float
    seed: int
    prompts: list[list[int]]
    answers: list[list[list[int]]]  # of each prompt, best first
    lengths: list[int]  # new tokens of each prompt in the row `lengths`
    shape: dict[str, Any] | None = None  # a DecoderConfig, for a network of random weights instead of `model`
    rank: int = 0  # LoRA's; 0 trains everything

    def write(self, path: Path) -> Path:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: str) -> "Task":
        """What `write` wrote."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))

    def part(self, step: int) -> range:
        """Which prompts step number `step` reads."""
        return range(step * self.batch, (step + 1) * self.batch)


def task(row: RowName, config: BenchConfig, *, model: str, dtype: str, vocabulary: int) -> Task:
    """The row's work, one step longer than what is measured: the first step of a side is for warming up."""
    r = random.Random(config.seed)
    total, spec = 1 + config.steps * config.rounds, ROWS[row]
    size = {"generate": config.rows, "lengths": QUEUE * config.rows}.get(row, config.batch)

    def tokens(count: int) -> list[int]:
        return [r.randrange(vocabulary // 100, vocabulary) for _ in range(count)]

    prompts = [tokens(config.prompt) for _ in range(size * total)]
    return Task(
        row=row,
        way="",
        model=model,
        dtype=dtype,
        batch=size,
        slots=config.rows,
        total_steps=total,
        new_tokens=config.new_tokens,
        epochs=config.epochs,
        micro_tokens=config.micro_tokens,
        learning_rate=config.learning_rate,
        seed=config.seed,
        prompts=prompts,
        answers=[[tokens(r.randint(config.shortest, config.longest)) for _ in range(spec.answers)] for _ in prompts],
        lengths=[r.randint(max(1, config.new_tokens // 8), config.new_tokens) for _ in prompts],
    )


@torch.no_grad()
def spread(network: nn.Module, seed: int) -> None:
    """Move each weight of every matrix by up to 1/256 of itself, half a step of bf16 or more, evenly to both sides."""
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        if weight.dim() == 2:
            moved = 1 + (2 * torch.rand(weight.shape, generator=generator) - 1) / 256
            weight.mul_(moved.to(weight.device))


def worked_tokens(one: Task, step: int) -> int:
    """Tokens of the data that a step deals with, each sequence counted whole, padding not counted."""
    places = one.part(step)
    match one.row:
        case "ppo" | "ppo_shared":
            return sum(len(one.prompts[i]) + one.new_tokens for i in places)
        case "generate":
            return one.new_tokens * one.batch
        case "lengths":
            return sum(one.lengths[i] for i in places)
        case _:
            return sum(len(one.prompts[i]) + len(answer) for i in places for answer in one.answers[i])


def environment(config: BenchConfig) -> dict[str, str]:
    """What both sides' processes are started with."""
    inherited = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return {**inherited, **quiet, "OMP_NUM_THREADS": str(config.threads), **(SETTINGS if config.tuned else {})}


def machine() -> dict[str, str | int]:
    """Where it was measured."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return {
        "processor": name,
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
        "system": sys.platform,
    }


def chosen_rows(names: Sequence[str]) -> list[RowName]:
    """These rows in the table's order; all where none is named."""
    return [name for name in ROWS if name in names or not names]
