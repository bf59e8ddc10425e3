"""Read a GGUF file (llama.cpp's format): config, dequantised tensors, tokenizer; without transformers' GGUF path.

That path needs accelerate and marks the model as quantised, which can then be neither trained nor saved.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, GGUFValueType, dequantize
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.model.decoder import DecoderConfig

FAMILIES = ("llama", "qwen2", "qwen3")
SPECIAL = 3  # tokenizer.ggml.token_type of control tokens
TENSORS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp interleaves the rows of q and k for its rotary positions; undo that: (out, …) → (out, …)."""
    rows = weight.shape[0]
    return weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def disk_name(name: str) -> str:
    """GGUF's name of a tensor → Hugging Face's; the same name where it has none."""
    if name in TOP:
        return TOP[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in TENSORS:
        return f"model.layers.{parts[1]}.{TENSORS[parts[2]]}.{parts[3]}"
    return name


class GgufFile:
    """An open GGUF file. Raises ModelError when it is none, or of an architecture or tokenizer we don't read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._reader = GGUFReader(path)
        except (OSError, ValueError, IndexError, KeyError) as error:
            raise ModelError(f"{path} can't be read as GGUF ({error}): download it again") from error
        self.family = str(self.field("general.architecture"))
        if self.family not in FAMILIES:
            raise ModelError(f"{path} has architecture {self.family!r}; from GGUF we read {', '.join(FAMILIES)}")
        self._tensors = {disk_name(t.name): t for t in self._reader.tensors}
        self.config = self._config()

    def field(self, key: str, default: Any = None) -> Any:
        """A metadata value: number, string or list of them. Raises ModelError where it is missing without default."""
        entry = self._reader.fields.get(key)
        if entry is None:
            if default is None:
                raise ModelError(f"{self.path} lacks the field {key}: the file is incomplete, download it again")
            return default
        parts = [entry.parts[i] for i in entry.data]
        text = entry.types[-1] == GGUFValueType.STRING
        values = [bytes(p).decode("utf-8") if text else p[0].item() for p in parts]
        return values if entry.types[0] == GGUFValueType.ARRAY else values[0]

    def _config(self) -> DecoderConfig:
        def own(key: str, default: Any = None) -> Any:
            return self.field(f"{self.family}.{key}", default)

        heads, hidden = int(own("attention.head_count")), int(own("embedding_length"))
        if "rope_freqs.weight" in self._tensors or self.field(f"{self.family}.rope.scaling.type", "none") != "none":
            raise ModelError(f"{self.path} scales its rotary positions, which we don't read from GGUF: use safetensors")
        return DecoderConfig(
            family=self.family,
            vocab_size=len(self.field("tokenizer.ggml.tokens")),
            hidden_size=hidden,
            intermediate_size=int(own("feed_forward_length")),
            num_layers=int(own("block_count")),
            num_heads=heads,
            num_kv_heads=int(own("attention.head_count_kv", heads)),
            head_dim=int(own("attention.key_length", hidden // heads)),
            rope_theta=float(own("rope.freq_base", 10_000.0)),
            rms_norm_eps=round(float(own("attention.layer_norm_rms_epsilon")), 8),  # 1e-5 comes back from fp32 crooked
            tie_embeddings="lm_head.weight" not in self._tensors,
            context=int(own("context_length")),
            qkv_bias=self.family == "qwen2",
            qk_norm=self.family == "qwen3",
        )

    def tensor(self, name: str) -> Tensor:
        """A tensor by Hugging Face's name, dequantised to fp32. Raises ModelError when it is missing."""
        if name not in self._tensors:
            raise ModelError(f"tensor {name} is missing in {self.path}: the file is incomplete, download it again")
        found = self._tensors[name]
        weight = dequantize(found.data, found.tensor_type).astype(np.float32)
        if self.family == "llama" and ".self_attn.q_proj." in name:
            weight = unpermute(weight, self.config.num_heads)
        elif self.family == "llama" and ".self_attn.k_proj." in name:
            weight = unpermute(weight, self.config.num_kv_heads)
        return torch.from_numpy(np.ascontiguousarray(weight))

    def tokenizer(self) -> Any:
        """The byte-level BPE tokenizer as a transformers `PreTrainedTokenizerFast`, chat template included.

        The file stores vocabulary and merges but only the *name* of the rule that cuts text into words first; we know
        `smollm` (single digits, then GPT-2's words) and `qwen2`. Raises ModelError for others.
        """
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        kind, rule = self.field("tokenizer.ggml.model"), self.field("tokenizer.ggml.pre", "default")
        if kind != "gpt2" or rule not in ("smollm", "qwen2"):
            raise ModelError(f"{self.path} has tokenizer {kind}/{rule}; from GGUF we read gpt2/smollm and gpt2/qwen2")
        tokens = self.field("tokenizer.ggml.tokens")
        merges = [tuple(m.split(" ")) for m in self.field("tokenizer.ggml.merges")]
        bpe = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule == "smollm")
        if rule == "smollm":
            first: Any = pre_tokenizers.Digits(individual_digits=True)
        else:
            first = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
        bpe.pre_tokenizer = pre_tokenizers.Sequence([first, words])
        bpe.decoder = decoders.ByteLevel()
        types = self.field("tokenizer.ggml.token_type")
        special = [t for t, k in zip(tokens, types, strict=True) if k == SPECIAL]
        bpe.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
        named = {}
        for role, key in (
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("pad_token", "padding"),
            ("unk_token", "unknown"),
        ):
            at = self.field(f"tokenizer.ggml.{key}_token_id", -1)
            if at >= 0:
                named[role] = tokens[at]
        fast = PreTrainedTokenizerFast(tokenizer_object=bpe, model_max_length=self.config.context, **named)
        fast.chat_template = self.field("tokenizer.chat_template", "") or None
        return fast
