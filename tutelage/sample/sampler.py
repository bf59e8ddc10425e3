"""The seam between prompts and completions: three verbs, `generate`, `stream` and `load`.

Implementations: `engine.Engine` (our decoder), `hf.HFSampler` (any transformers model), `scripted.Scripted` (the fake).
All but the fake draw from the same uniforms (`uniforms`) by the same rule (`draw.draw`), so that on the same weights
they give the same tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor

from tutelage.config import Section
from tutelage.errors import ModelError
from tutelage.model.decoder import Decoder
from tutelage.records import Finish


class SamplingParams(Section):
    """How completions are drawn."""

    max_tokens: Annotated[int, Field(ge=1)] = 32
    """The most new tokens of a completion, the end token included."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Divides the logits. 0 takes the likeliest token; log-probabilities are then those at temperature 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw among the fewest likeliest tokens that hold this probability; 1 draws among all."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Draw among this many likeliest tokens; 0 draws among all. Applied before top_p."""
    slots: Annotated[int, Field(ge=1)] = 64
    """Rows decoded together. Changes speed and memory, not results."""


@dataclass(frozen=True)
class Sampled:
    """One completion as tokens."""

    tokens: tuple[int, ...]  # n of them; the end token is the last one when finish is "stop"
    logprobs: Tensor  # (n,) fp32 on the CPU: under the policy at the sampling temperature, before top-k and top-p
    finish: Finish
    hidden: Tensor | None = None  # (prompt + n, H) fp32 entering layer `capture`, when the engine was asked for it


class Sampler(Protocol):
    """Prompts to completions."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sampled]:
        """One completion for each prompt, in the prompts' order. `progress` hears how many are finished so far.

        Raises ModelError when a prompt is empty, too long for the context, or holds an unknown token.
        """

    def stream(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, seed: int
    ) -> Iterator[dict[int, int]]:
        """The same completions as they grow: at every step, the token that each unfinished one gained, by its index.

        Who stops reading stops the work. A sampler that can't tell before the end gives all in one go. Raises what
        `generate` raises.
        """

    def load(self, decoder: Decoder) -> None:
        """Sample from these weights from now on."""


def uniforms(seed: int, count: int, max_tokens: int) -> Tensor:
    """(count, max_tokens) fp64 in [0, 1): row i is for completion i alone, whatever it is decoded beside."""
    return torch.rand(count, max_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def replay(completions: Sequence[Sampled]) -> Iterator[dict[int, int]]:
    """Finished completions as `Sampler.stream` gives them."""
    for step in range(max((len(one.tokens) for one in completions), default=0)):
        yield {i: one.tokens[step] for i, one in enumerate(completions) if step < len(one.tokens)}


def check_prompts(prompts: Sequence[Sequence[int]], vocab_size: int, context: int) -> None:
    """Raises ModelError for an empty prompt, one that leaves no room in the context, or an unknown token."""
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise ModelError(f"prompt {i} has no tokens: give it at least one (a begin or newline token will do)")
        if len(prompt) >= context:
            raise ModelError(
                f"prompt {i} has {len(prompt)} tokens but the model's context is {context}, answer included: shorten it"
            )
        if min(prompt) < 0 or max(prompt) >= vocab_size:
            raise ModelError(
                f"prompt {i} holds token {max(prompt) if min(prompt) >= 0 else min(prompt)}, but the vocabulary "
                f"is 0 to {vocab_size - 1}: was it tokenized for another model?"
            )
