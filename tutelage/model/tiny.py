"""A decoder that trains in seconds and a tokenizer that needs no download: the fake for every test, named `tiny`."""

import torch

from tutelage.model.chat import Tokenizer
from tutelage.model.decoder import Decoder, DecoderConfig

TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)


def tiny_config(vocab: int, *, layers: int = 2, width: int = 32, context: int = 256) -> DecoderConfig:
    """Llama's shape with two query heads to each key head; `width` a multiple of 16."""
    return DecoderConfig(
        family="llama",
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=2 * width,
        num_layers=layers,
        num_heads=4,
        num_kv_heads=2,
        head_dim=width // 4,
        rope_theta=10_000.0,
        rms_norm_eps=1e-5,
        tie_embeddings=True,
        context=context,
    )


def tiny_decoder(vocab: int = 260, *, seed: int = 0, layers: int = 2, width: int = 32, context: int = 256) -> Decoder:
    """A randomly initialised decoder of some ten thousand weights; the same seed gives the same one."""
    config = tiny_config(vocab, layers=layers, width=width, context=context)
    return Decoder(config).initialise(torch.Generator().manual_seed(seed), std=0.1)


def tiny_tokenizer() -> Tokenizer:
    """One token a byte, 256 of them, then pad, start, end and one spare: 260. Any text survives the round trip."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Bpe
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Bpe(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    control = ("<|pad|>", "<|start|>", "<|end|>", "<|spare|>")
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|start|>", eos_token="<|end|>", pad_token="<|pad|>", model_max_length=256
    )
    fast.chat_template = TEMPLATE
    return Tokenizer(fast)
