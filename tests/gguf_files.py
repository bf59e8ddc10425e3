"""Tiny GGUF files for the tests, written as llama.cpp's converter writes them."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tutelage.model.gguf import SPECIAL, TENSORS, TOP

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGED = ["19", "ab"]
NAMES = {theirs: ours for ours, theirs in TOP.items()}
PARTS = {theirs: ours for ours, theirs in TENSORS.items()}


def shape(family: str) -> dict[str, Any]:
    """Arguments for a transformers config of this family, small, with a vocabulary of control tokens and bytes."""
    more = {"head_dim": 16} if family == "qwen3" else {}
    rope = {"rope_type": "default", "rope_theta": 5e4}
    return {
        "vocab_size": len(CONTROL) + 256 + len(MERGED),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": family != "qwen2",
        "rope_parameters": rope,
        **more,
    }


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to the rows of q and k."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write(model: Any, path: Path, *, quantise: gguf.GGMLQuantizationType | None = None, rule: str = "smollm") -> None:
    """A transformers Llama, Qwen2 or Qwen3 as GGUF; `quantise` for the matrices of the feed-forward layers."""
    from tokenizers import pre_tokenizers

    c = model.config
    writer = gguf.GGUFWriter(path, c.model_type)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    if c.model_type == "qwen3":
        writer.add_key_length(c.head_dim)
    tokens = [*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *MERGED]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types([SPECIAL] * len(CONTROL) + [1] * (256 + len(MERGED)))
    writer.add_token_merges(["1 9", "a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        weight = tensor.float().numpy()
        if c.model_type == "llama" and ".q_proj." in name:
            weight = permute(weight, c.num_attention_heads)
        elif c.model_type == "llama" and ".k_proj." in name:
            weight = permute(weight, c.num_key_value_heads)
        kind = quantise if quantise is not None and ".mlp." in name else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """Hugging Face's name of a tensor → GGUF's."""
    if name in NAMES:
        return NAMES[name]
    _, _, layer, *part, kind = name.split(".")
    return f"blk.{layer}.{PARTS['.'.join(part)]}.{kind}"
