"""Several networks over one memory: policy, reference, value and reward model share what is not trained.

`Top` trains the upper layers and the final norm and shares the rest; `Lora` (Hu et al. 2021, section 4.1) adds low-rank
matrices to every product of every layer and shares all weights; `Full` shares nothing. Shared modules are the same
objects, frozen.
"""

import copy
import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from tutelage.config import Section
from tutelage.errors import ConfigError
from tutelage.model.decoder import Decoder
from tutelage.model.foreign import ForeignDecoder
from tutelage.model.linear import Linear


class Top(Section):
    """Train the topmost layers and the final norm; embedding, output matrix and lower layers are shared and frozen."""

    kind: Literal["top"] = "top"
    layers: Annotated[int, Field(ge=1)] = 10
    """How many layers, counted from the top."""


class Lora(Section):
    """Train low-rank matrices beside every product of every layer; all weights are shared and frozen."""

    kind: Literal["lora"] = "lora"
    rank: Annotated[int, Field(ge=1)] = 16
    """Rank of the update, r in the paper."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The update is scaled by alpha / rank."""


class Full(Section):
    """Train every weight; nothing is shared."""

    kind: Literal["full"] = "full"


Train = Annotated[Top | Lora | Full, Field(discriminator="kind")]


def branch(decoder: Decoder, train: Train, generator: torch.Generator) -> Decoder:
    """A second network that gives exactly the source's outputs until it is trained.

    What `train` doesn't train is the source's own memory, and is frozen there too. The generator draws LoRA's A. A
    branch of a LoRA network goes on from a copy of its matrices. Raises ConfigError for more layers than there are, or
    for a LoRA of another rank or scale than the source's.
    """
    shared = _shared(decoder, train)
    for module in shared:
        for parameter in module.parameters():
            parameter.requires_grad_(False)
    memo: dict[int, object] = {id(module): module for module in shared}
    if isinstance(train, Lora):
        memo |= {id(p): p.requires_grad_(False) for name, p in decoder.named_parameters() if not _is_lora(name)}
    new = copy.deepcopy(decoder, memo)
    if isinstance(train, Lora):
        _add_lora(new, train, generator)
        for ours, theirs in zip(decoder.modules(), new.modules(), strict=True):
            if isinstance(ours, Linear) and isinstance(theirs, Linear):
                ours.lend(theirs)
        return new
    kept = {id(p) for module in shared for p in module.parameters()}
    for name, parameter in new.named_parameters():
        if id(parameter) not in kept:
            parameter.requires_grad_(not _is_lora(name))  # a LoRA below trained weights stays as a constant
            parameter.grad = None
    return new


def trainable(decoder: nn.Module) -> dict[str, nn.Parameter]:
    """The network's own parameters by name, without the frozen ones it shares."""
    return {name: p for name, p in decoder.named_parameters() if p.requires_grad}


def merge(decoder: Decoder) -> Decoder:
    """LoRA folded into plain weights: W + (alpha / rank) B A. The same object when there is none; else a new network
    that shares every weight LoRA doesn't touch."""
    adapted = [m for m in decoder.modules() if isinstance(m, Linear) and m.lora_a is not None]
    if not adapted:
        return decoder
    left = {id(p) for m in adapted for p in m.parameters()}
    merged = copy.deepcopy(decoder, {id(p): p for p in decoder.parameters() if id(p) not in left})
    for module in merged.modules():
        if isinstance(module, Linear) and module.lora_a is not None and module.lora_b is not None:
            with torch.no_grad():
                module.weight.add_(module.lora_scale * (module.lora_b @ module.lora_a))
            module.lora_a = module.lora_b = None
    return merged


def _is_lora(name: str) -> bool:
    return name.endswith((".lora_a", ".lora_b"))


def _shared(decoder: Decoder, train: Train) -> list[nn.Module]:
    """The modules a branch shares whole."""
    if isinstance(train, Full):
        return []
    if isinstance(decoder, ForeignDecoder):
        raise ConfigError(f"a {decoder.config.family} model runs through transformers, where only train: full works")
    head = [] if decoder.lm_head is None else [decoder.lm_head]
    if isinstance(train, Lora):
        return [decoder.embed, decoder.norm, *head]
    below = decoder.config.num_layers - train.layers
    if below < 0:
        raise ConfigError(f"train.layers is {train.layers}, but the model has {decoder.config.num_layers} layers")
    return [decoder.embed, *head, *list(decoder.layers)[:below]]


def _add_lora(decoder: Decoder, train: Lora, generator: torch.Generator) -> None:
    """A ~ N(0, 1/in), B = 0, so that the update starts at nothing (Hu et al. 2021, section 4.1)."""
    scale = train.alpha / train.rank
    for layer in decoder.layers:
        for linear in (m for m in layer.modules() if isinstance(m, Linear)):
            if linear.lora_a is not None:
                if linear.lora_a.shape[0] != train.rank or linear.lora_scale != scale:
                    found = f"rank {linear.lora_a.shape[0]} and scale {linear.lora_scale}"
                    raise ConfigError(f"the source has a LoRA of {found}: ask for the same, or merge it first")
                continue
            rows, columns = linear.weight.shape
            a = torch.randn(train.rank, columns, generator=generator) / math.sqrt(columns)
            linear.lora_a = nn.Parameter(a.to(linear.weight.device))
            linear.lora_b = nn.Parameter(linear.weight.new_zeros(rows, train.rank))
            linear.lora_scale = scale
