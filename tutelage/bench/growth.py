"""How speed and memory grow with the work: length, batch, K, the model's size, LoRA's rank.

Every point is a process of its own, so that its memory is its own: a first step, then a few measured ones of SFT (of
the reward model for K) on made-up tokens, on a network of random weights.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from tutelage.bench.sides import Side, our_command
from tutelage.bench.work import BenchConfig, Task, environment, task, worked_tokens
from tutelage.model.decoder import DecoderConfig
from tutelage.progress import progress

PROMPT = 64  # tokens of a prompt, where it isn't the length that grows
LENGTHS: Sequence[int] = (128, 256, 512, 1024, 2048, 4096)
BATCHES: Sequence[int] = (1, 2, 4, 8, 16, 32)
COMPLETIONS: Sequence[int] = (2, 4, 8, 9)
RANKS: Sequence[int] = (1, 4, 16, 64)
SHAPES = {  # millions of parameters → layers, width
    "5M": (4, 256), "20M": (8, 384), "60M": (16, 512), "135M": (30, 576), "360M": (32, 960)
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One measurement."""

    at: str
    work: float  # tokens of a step; for shapes, times the parameters in millions
    tokens_per_second: float
    peak_bytes: int


@dataclass(frozen=True)
class Curve:
    """Points along one size, the others standing still."""

    title: str
    along: str
    points: tuple[Point, ...]


def shape(layers: int, width: int, vocabulary: int) -> DecoderConfig:
    """A Llama of this size, heads of 64 and three to a key as SmolLM2 has them, where the width allows."""
    heads = width // 64
    return DecoderConfig(
        family="llama",
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads // 3 if heads % 3 == 0 else heads // 2,
        head_dim=64,
        rope_theta=10_000.0,
        rms_norm_eps=1e-5,
        tie_embeddings=True,
        context=8192,
    )


def curves(config: BenchConfig, folder: Path, dtype: str, *, small: bool = False) -> list[Curve]:
    """Measure all of them, with products in `dtype`; `small` does two points of each on the smallest shape."""
    vocabulary = 512 if small else 49_152
    least = asdict(shape(*SHAPES["5M"], vocabulary))
    few = slice(0, 2 if small else None)

    def job(row: str, batch: int, prompt: int, answer: int, completions: int = 1) -> Task:
        """Steps of this work on the smallest shape."""
        sizes = {"batch": batch, "prompt": prompt, "shortest": answer, "longest": answer}
        made = task("sft" if row == "sft" else "reward4", config.model_copy(update=sizes), model="", dtype=dtype,
                    vocabulary=vocabulary)  # fmt: skip
        answers = [(some * completions)[:completions] for some in made.answers]
        return replace(made, shape=least, answers=answers)

    plan: list[tuple[str, str, list[tuple[str, Task]]]] = [
        ("SFT by length, one sequence a step", "tokens of a sequence",
         [(str(n), job("sft", 1, n // 2, n - n // 2)) for n in LENGTHS[few]]),
        ("SFT by batch, 128 tokens a sequence", "sequences a step",
         [(str(n), job("sft", n, PROMPT, PROMPT)) for n in BATCHES[few]]),
        ("Reward model by K, prompt and completions of 64 tokens, two prompts a step", "completions of a prompt",
         [(str(k), job("reward", 2, PROMPT, PROMPT, k)) for k in COMPLETIONS[few]]),
        ("SFT by LoRA rank, 4 × 128 tokens", "rank",
         [(str(r), replace(job("sft", 4, PROMPT, PROMPT), rank=r)) for r in RANKS[few]]),
        ("SFT by shape, 1 × 128 tokens", "parameters",
         [(name, replace(job("sft", 1, PROMPT, PROMPT), shape=asdict(shape(*size, vocabulary))))
          for name, size in list(SHAPES.items())[few]]),
    ]  # fmt: skip
    found = []
    with progress("Growth", sum(len(jobs) for _, _, jobs in plan)) as report:
        done = 0
        for title, along, jobs in plan:
            points = []
            for at, work in jobs:
                points.append(_point(at, work, config, folder))
                done += 1
                report(done, f"{along} {at}")
            found.append(Curve(title, along, tuple(points)))
    return found


def _point(at: str, work: Task, config: BenchConfig, folder: Path) -> Point:
    side = Side.start(f"{at}", [*our_command(), str(work.write(folder / "point.json"))], folder, environment(config))
    try:
        side.turn(1)
        turn = side.turn(work.total_steps - 1)
    finally:
        side.end()
    tokens = [worked_tokens(work, i) for i in range(1, work.total_steps)]
    rate = median(n / s for n, s in zip(tokens, turn.seconds, strict=True))
    return Point(at, median(tokens), rate, turn.peak_bytes)
