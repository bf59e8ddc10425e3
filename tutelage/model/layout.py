"""A decoder in Hugging Face's folder layout: its config.json and the names of its tensors, both ways.

What we fuse (q, k, v; gate, up) is split on disk, so that transformers reads what we write and we read what it writes.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.model.decoder import Decoder, DecoderConfig

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
ROPE_FIELDS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}

Lookup = Callable[[str], Tensor]


class NotServedError(ModelError):
    """Our decoder doesn't serve this architecture; transformers may (`foreign.py`)."""


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise NotServedError(f"our decoder serves {', '.join(ARCHITECTURES)}; this config has {reason}")


def _rope(raw: Mapping[str, Any]) -> tuple[float, dict[str, float | str] | None]:
    """Base and scaling, from transformers 5's `rope_parameters` or from `rope_theta` and `rope_scaling` before it."""
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    theta = float(rope.get("rope_theta") or raw.get("rope_theta") or 10_000.0)
    kind = str(rope.get("rope_type") or rope.get("type") or "default")
    _require(float(rope.get("partial_rotary_factor") or 1.0) == 1.0, "partial rotary positions")
    if kind == "default":
        return theta, None
    _require(kind in ROPE_FIELDS, f"rope type {kind!r}")
    return theta, {"rope_type": kind} | {field: float(rope[field]) for field in ROPE_FIELDS[kind]}


def _window(raw: Mapping[str, Any]) -> int | None:
    window = raw.get("sliding_window")
    if raw["model_type"] == "mistral" or window is None:
        return window
    kinds = set(raw.get("layer_types") or ["full_attention"])
    _require(len(kinds) == 1, "full and sliding attention mixed")
    return int(window) if kinds == {"sliding_attention"} else None


def parse_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """A complete config (as transformers' `to_dict()` gives it) → ours.

    Raises NotServedError when the architecture is not of the family, ModelError when the weights are quantised.
    """
    family = str(raw.get("model_type"))
    _require(family in ARCHITECTURES, f"model_type {family!r}")
    if raw.get("quantization_config"):
        raise ModelError("the checkpoint is quantised, so it can't be trained: use the unquantised one")
    biased = bool(raw.get("attention_bias")) or bool(raw.get("mlp_bias"))
    _require(not biased, "biases (attention_bias or mlp_bias)")
    _require(raw.get("hidden_act", "silu") == "silu", f"activation {raw.get('hidden_act')!r}")
    theta, scaling = _rope(raw)
    heads = int(raw["num_attention_heads"])
    return DecoderConfig(
        family=family,
        vocab_size=int(raw["vocab_size"]),
        hidden_size=int(raw["hidden_size"]),
        intermediate_size=int(raw["intermediate_size"]),
        num_layers=int(raw["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=int(raw.get("head_dim") or raw["hidden_size"] // heads),
        rope_theta=theta,
        rms_norm_eps=float(raw["rms_norm_eps"]),
        tie_embeddings=bool(raw["tie_word_embeddings"]),
        context=int(raw["max_position_embeddings"]),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        sliding_window=_window(raw),
        rope_scaling=scaling,
    )


def config_json(config: DecoderConfig, *, begin: int | None, end: int, pad: int) -> dict[str, Any]:
    """Our config → config.json as transformers 4 and 5 both read it.

    Both `rope_theta` and `rope_parameters` are written: a reader that knows only one of them and finds the other falls
    back to 10,000 without a word.
    """
    rope: dict[str, float | str] = {
        "rope_type": "default",
        **(config.rope_scaling or {}),
        "rope_theta": config.rope_theta,
    }
    return {
        "architectures": [ARCHITECTURES[config.family]],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "rope_theta": config.rope_theta,
        "rope_parameters": rope,
        "rope_scaling": config.rope_scaling,
        "sliding_window": config.sliding_window,
        "use_sliding_window": config.sliding_window is not None,
        "max_window_layers": 0 if config.sliding_window is not None else config.num_layers,
        "bos_token_id": begin,
        "eos_token_id": end,
        "pad_token_id": pad,
        "torch_dtype": "float32",
        "dtype": "float32",
    }


def tensor_names(config: DecoderConfig) -> Iterator[tuple[str, tuple[tuple[str, int], ...]]]:
    """Each of our tensors with those on disk it is made of, stacked along dimension 0: (name, rows) each."""
    c = config
    q, kv, wide, H = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.intermediate_size, c.hidden_size
    yield "embed.weight", (("model.embed_tokens.weight", c.vocab_size),)
    yield "norm.weight", (("model.norm.weight", H),)
    if not c.tie_embeddings:
        yield "lm_head.weight", (("lm_head.weight", c.vocab_size),)
    for i in range(c.num_layers):
        ours, theirs = f"layers.{i}.", f"model.layers.{i}."
        for kind in ("weight", "bias") if c.qkv_bias else ("weight",):
            rows = (("q", q), ("k", kv), ("v", kv))
            yield f"{ours}qkv.{kind}", tuple((f"{theirs}self_attn.{x}_proj.{kind}", n) for x, n in rows)
        if c.qk_norm:
            yield f"{ours}q_norm.weight", ((f"{theirs}self_attn.q_norm.weight", c.head_dim),)
            yield f"{ours}k_norm.weight", ((f"{theirs}self_attn.k_norm.weight", c.head_dim),)
        yield f"{ours}attention_norm.weight", ((f"{theirs}input_layernorm.weight", H),)
        yield f"{ours}out.weight", ((f"{theirs}self_attn.o_proj.weight", H),)
        yield f"{ours}mlp_norm.weight", ((f"{theirs}post_attention_layernorm.weight", H),)
        yield f"{ours}gate_up.weight", tuple((f"{theirs}mlp.{x}_proj.weight", wide) for x in ("gate", "up"))
        yield f"{ours}down.weight", ((f"{theirs}mlp.down_proj.weight", H),)


def fill(decoder: Decoder, lookup: Lookup) -> Decoder:
    """Fill every weight from tensors named as on disk, of any float dtype. Raises ModelError on a wrong shape."""
    own = dict(decoder.named_parameters())
    with torch.no_grad():
        for name, parts in tensor_names(decoder.config):
            places = torch.split(own[name], [rows for _, rows in parts])
            for (theirs, _), place in zip(parts, places, strict=True):
                tensor = lookup(theirs)
                if tensor.shape != place.shape:
                    shapes = f"has shape {tuple(tensor.shape)}, config.json asks for {tuple(place.shape)}"
                    raise ModelError(f"tensor {theirs} {shapes}: weights and config are of different models")
                place.copy_(tensor)
    return decoder


def tensor_lookup(folder: Path) -> Lookup:
    """The tensors of a folder's safetensors, sharded or not, read as they are asked for.

    Raises ModelError when there are none, a file is damaged or a tensor is missing.
    """
    index = folder / "model.safetensors.index.json"
    files = [folder / "model.safetensors"]
    if index.is_file():
        files = [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    where: dict[str, Any] = {}
    for file in files:
        if not file.is_file():
            raise ModelError(f"{file} is missing: download the model again, in safetensors format")
        try:
            opened: Any = safe_open(str(file), framework="pt")
        except SafetensorError as error:
            raise ModelError(f"{file} is damaged ({error}): download the model again") from error
        where.update(dict.fromkeys(opened.keys(), opened))

    def lookup(name: str) -> Tensor:
        if name not in where:
            raise ModelError(f"tensor {name} is missing in {folder}: weights and config.json are of different models")
        tensor: Tensor = where[name].get_tensor(name)
        return tensor

    return lookup


def write_tensors(decoder: Decoder, folder: Path) -> None:
    """Write model.safetensors in fp32, under the names transformers knows."""
    own = decoder.state_dict()
    tensors = {}
    for name, parts in tensor_names(decoder.config):
        for (theirs, _), part in zip(parts, torch.split(own[name], [rows for _, rows in parts]), strict=True):
            tensors[theirs] = part.float().cpu().clone()  # a copy: safetensors refuses views of one storage
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
