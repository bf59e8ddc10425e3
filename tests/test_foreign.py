"""Models that only transformers knows, behind our decoder's verbs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.errors import ConfigError, ModelError
from tutelage.judge.reading import StateReader
from tutelage.model.adapters import Full, Lora, Top, branch, trainable
from tutelage.model.batch import Packed
from tutelage.model.causal import Model, fingerprint, load, save
from tutelage.model.foreign import ForeignDecoder
from tutelage.model.heads import common_layers
from tutelage.model.tiny import tiny_tokenizer

ROWS = [list(range(3, 15)), [40, 41, 259], [7]]


def gpt2(**more: Any) -> Any:
    """A random GPT-2 with its dropout of 0.1."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"vocab_size": 260, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=257, eos_token_id=258, **more)).float().eval()


@torch.no_grad()
def logits(decoder: ForeignDecoder) -> torch.Tensor:
    return decoder(Packed.of(ROWS)) @ decoder.head_weight().T


@torch.no_grad()
def wanted(inner: Any) -> torch.Tensor:
    return torch.cat([inner(input_ids=torch.tensor([row])).logits[0] for row in ROWS])


def test_packed_rows_give_the_logits_of_single_ones() -> None:
    inner = gpt2()
    decoder = ForeignDecoder(inner)
    torch.testing.assert_close(logits(decoder), wanted(inner), atol=1e-4, rtol=0)
    decoder.train()
    torch.testing.assert_close(logits(decoder), wanted(inner), atol=1e-4, rtol=0)  # dropout stays off
    low = logits(decoder.compute_in(torch.bfloat16))
    assert low.dtype == torch.float32
    assert 0 < (low - wanted(inner)).abs().max() < 0.05


def test_load_falls_back_and_saves_what_transformers_reads(tmp_path: Path) -> None:
    inner = gpt2()
    inner.save_pretrained(str(tmp_path / "theirs"))
    tiny_tokenizer().save(tmp_path / "theirs")
    model = load(tmp_path / "theirs", compute=torch.float32)
    assert isinstance(model.decoder, ForeignDecoder)
    assert model.decoder.config.num_layers == 2
    torch.testing.assert_close(logits(model.decoder), wanted(inner), atol=1e-4, rtol=0)
    save(Model(model.decoder, model.tokenizer, "x"), tmp_path / "ours")
    assert fingerprint(load(tmp_path / "ours").decoder) == fingerprint(model.decoder)


def test_llama_with_a_rope_we_do_not_know_falls_back(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1e4}
    shape = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(**shape, num_attention_heads=4, max_position_embeddings=128, rope_parameters=rope)
    inner = LlamaForCausalLM(config).float().eval()
    inner.save_pretrained(str(tmp_path))
    tiny_tokenizer().save(tmp_path)
    decoder = load(tmp_path, compute=torch.float32).decoder
    assert isinstance(decoder, ForeignDecoder)
    torch.testing.assert_close(logits(decoder), wanted(inner), atol=1e-4, rtol=0)


def test_a_full_branch_trains_apart_and_nothing_else_is_offered() -> None:
    source = ForeignDecoder(gpt2())
    before = logits(source)
    new = branch(source, Full(), torch.Generator())
    assert torch.equal(logits(new), before)
    optimizer = torch.optim.AdamW(trainable(new).values(), lr=0.01)
    new(Packed.of(ROWS)).square().mean().backward()
    optimizer.step()
    assert not torch.allclose(logits(new), before, atol=1e-3)
    assert torch.equal(logits(source), before)
    assert new.head_weight() is new.embed.weight  # still tied
    assert common_layers(source, new) == 0
    for train in (Top(layers=1), Lora()):
        with pytest.raises(ConfigError, match="only train: full"):
            branch(source, train, torch.Generator())
    with pytest.raises(ModelError, match="layer by layer"):
        source(Packed.of(ROWS), start=1)


def gemma2_with_softcap() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    shape = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    model = Gemma2ForCausalLM(Gemma2Config(**shape, **heads, final_logit_softcapping=0.01)).float().eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(10)
    return model


def phi_with_bias() -> Any:
    from transformers import PhiConfig, PhiForCausalLM

    torch.manual_seed(0)
    shape = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    model = PhiForCausalLM(PhiConfig(**shape, num_attention_heads=4, max_position_embeddings=64)).float().eval()
    with torch.no_grad():
        model.lm_head.bias.normal_()
    return model


@pytest.mark.parametrize("build", [gemma2_with_softcap, phi_with_bias])
def test_logits_made_otherwise_are_refused(build: Any) -> None:
    with pytest.raises(ModelError, match="bias, scaling or softcap"):
        ForeignDecoder(build())


def test_there_are_no_layers_to_read_states_from() -> None:
    with pytest.raises(ModelError, match="no layers of ours to read states from"):
        StateReader(Model(ForeignDecoder(gpt2()), tiny_tokenizer(), "gpt2"))
