"""Our decoder against transformers: reading its folders, writing them back, and refusing what is broken."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tutelage.errors import ModelError
from tutelage.model.adapters import Lora, branch
from tutelage.model.batch import Packed
from tutelage.model.causal import Model, best_compute, best_device, fingerprint, load, save
from tutelage.model.decoder import Decoder
from tutelage.model.download import model_folder
from tutelage.model.tiny import tiny_tokenizer

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 257,
    "eos_token_id": 258,
    "pad_token_id": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}),
    "llama3-untied": ("Llama", {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "tie_word_embeddings": False}),
    "llama-linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}}),
    "mistral-window": ("Mistral", {"sliding_window": 5, "head_dim": 16}),
    "mistral-full": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
}
ROWS = [list(range(3, 30)), [40, 41, 299], [7]]
each_shape = pytest.mark.parametrize("shape", SHAPES)


@pytest.fixture(scope="module", autouse=True)
def quiet_transformers() -> Iterator[None]:
    from transformers.utils import logging

    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def foreign_folder(shape: str, folder: Path, **settings: Any) -> tuple[Any, Path]:
    """A random transformers model of this shape, saved with our tiny tokenizer; every weight far from its default."""
    import transformers

    family, more = SHAPES[shape]
    config = getattr(transformers, f"{family}Config")(**SHAPE, **more)
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(str(folder), **settings)
    tiny_tokenizer().save(folder)
    return model, folder


@torch.no_grad()
def our_logits(decoder: Decoder, rows: list[list[int]]) -> torch.Tensor:
    return decoder(Packed.of(rows)) @ decoder.head_weight().T


@torch.no_grad()
def their_logits(model: Any, rows: list[list[int]]) -> torch.Tensor:
    return torch.cat([model(input_ids=torch.tensor([row])).logits[0] for row in rows])


@each_shape
def test_logits_equal_transformers_both_ways(shape: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    theirs, folder = foreign_folder(shape, tmp_path / "theirs")
    wanted = their_logits(theirs, ROWS)
    model = load(folder, compute=torch.float32)
    assert type(model.decoder) is Decoder
    torch.testing.assert_close(our_logits(model.decoder, ROWS), wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cat([our_logits(model.decoder, [r]) for r in ROWS]), wanted, atol=1e-4, rtol=0)

    save(model, tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(str(tmp_path / "ours"), dtype=torch.float32)
    assert type(again) is type(theirs)
    torch.testing.assert_close(their_logits(again, ROWS), wanted, atol=1e-5, rtol=0)
    back = load(tmp_path / "ours", compute=torch.float32)
    assert back.decoder.config == model.decoder.config
    assert fingerprint(back.decoder) == fingerprint(model.decoder)


def test_a_window_matters_in_these_tests(tmp_path: Path) -> None:
    """The window of five must change the logits of a row of 27, or the comparison above says nothing of windows."""
    theirs, _ = foreign_folder("mistral-window", tmp_path)
    narrow = their_logits(theirs, ROWS[:1])
    theirs.config.sliding_window = None
    assert (their_logits(theirs, ROWS[:1]) - narrow)[6:].abs().max() > 0.01


def test_config_as_transformers_4_wrote_it(tmp_path: Path) -> None:
    theirs, folder = foreign_folder("llama3-untied", tmp_path)
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    rope = raw.pop("rope_parameters")
    raw["rope_theta"] = rope.pop("rope_theta")
    raw |= {"rope_scaling": rope, "torch_dtype": "float32", "transformers_version": "4.45.0"}
    path.write_text(json.dumps(raw))
    decoder = load(folder, compute=torch.float32).decoder
    torch.testing.assert_close(our_logits(decoder, ROWS), their_logits(theirs, ROWS), atol=1e-4, rtol=0)
    assert decoder.config.rope_theta == 5e5


def test_we_write_rope_for_readers_of_both_generations(tmp_path: Path) -> None:
    _, folder = foreign_folder("llama3-untied", tmp_path / "theirs")
    save(load(folder), tmp_path / "ours")
    raw = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert raw["rope_theta"] == raw["rope_parameters"]["rope_theta"] == 5e5
    assert raw["rope_scaling"]["factor"] == raw["rope_parameters"]["factor"] == 8.0
    tokenizer = json.loads((tmp_path / "ours" / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_sharded_bf16_checkpoints_become_fp32_masters(tmp_path: Path) -> None:
    theirs, _ = foreign_folder("qwen2", tmp_path / "whole")
    theirs.bfloat16().save_pretrained(str(tmp_path / "cut"), max_shard_size="20KB")
    tiny_tokenizer().save(tmp_path / "cut")
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) > 2
    decoder = load(tmp_path / "cut", compute=torch.float32).decoder
    assert {p.dtype for p in decoder.parameters()} == {torch.float32}
    again = type(theirs).from_pretrained(str(tmp_path / "cut"), dtype=torch.float32)
    torch.testing.assert_close(our_logits(decoder, ROWS), their_logits(again, ROWS), atol=1e-4, rtol=0)


def test_a_lora_network_is_saved_merged(tmp_path: Path) -> None:
    model = load("tiny", compute=torch.float32)
    adapted = branch(model.decoder, Lora(rank=2), torch.Generator().manual_seed(0))
    for name, parameter in adapted.named_parameters():
        if name.endswith("lora_b"):
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    save(Model(adapted, model.tokenizer, "tiny"), tmp_path)
    back = load(tmp_path, compute=torch.float32).decoder
    rows = [[1, 2, 3], [4]]
    torch.testing.assert_close(our_logits(back, rows), our_logits(adapted, rows), atol=1e-4, rtol=0)
    assert (our_logits(back, rows) - our_logits(model.decoder, rows)).abs().max() > 0.01


def test_fingerprint_sees_one_changed_weight_and_nothing_else() -> None:
    one, two = load("tiny").decoder, load("tiny").decoder
    assert fingerprint(one) == fingerprint(two.compute_in(torch.bfloat16))
    assert len(fingerprint(one)) == 16
    with torch.no_grad():
        two.layers[1].down.weight[0, 0] += 1e-3
    assert fingerprint(one) != fingerprint(two)


def test_tiny_needs_nothing_and_is_the_same_every_time() -> None:
    model = load("tiny")
    assert model.decoder.config.vocab_size == len(model.tokenizer) == 260
    assert model.decoder.compute == best_compute("cpu")


def break_missing(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def break_shape(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"intermediate_size": 48}))


def break_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not weights")


def break_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def break_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def break_quantised(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    quantised = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (folder / "config.json").write_text(json.dumps(raw | {"quantization_config": quantised}))


def break_tokenizer(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text()) | {"vocab_size": 200}
    (folder / "config.json").write_text(json.dumps(raw))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:200].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_missing, "layers.1.mlp.up_proj.weight is missing"),
        (break_shape, r"has shape \(56, 32\), config.json asks for \(48, 32\)"),
        (break_file, "is damaged"),
        (break_weights, "model.safetensors is missing"),
        (break_config, "has no config.json"),
        (break_quantised, "quantised"),
        (break_tokenizer, "knows 260 tokens, the model 200"),
    ],
)
def test_broken_folders_are_refused(damage: Any, message: str, tmp_path: Path) -> None:
    _, folder = foreign_folder("llama", tmp_path)
    damage(folder)
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="there is no model at nonsense"):
        load("nonsense")
    with pytest.raises(ModelError, match="tutelage models get smollm2-135m"):
        load("smollm2-135m")


def test_a_hub_name_is_fetched_and_only_what_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub is a fake here: it gives a folder, and is asked for weights in safetensors, never for pickles."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    save(load("tiny"), tmp_path / "snapshot")
    asked: list[tuple[str, list[str]]] = []

    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        if name != "somebody/tiny":
            raise LocalEntryNotFoundError("no such model")
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert fingerprint(load("somebody/tiny").decoder) == fingerprint(load("tiny").decoder)
    assert asked[0][0] == "somebody/tiny"
    assert {"*.json", "*.safetensors"} <= set(asked[0][1])
    assert not any("bin" in pattern for pattern in asked[0][1])
    with pytest.raises(ModelError, match="no folder somebody/else, and the hub gave no model of that name"):
        load("somebody/else")


@pytest.mark.parametrize("there", [False, True])
def test_auto_is_the_best_device_there_is(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert best_device().type == ("cuda" if there else "cpu")
    if not there:
        assert load("tiny", device="auto").decoder.embed.weight.device.type == "cpu"


@pytest.mark.slow
def test_smollm2_equals_transformers() -> None:
    from transformers import AutoModelForCausalLM

    folder = model_folder("smollm2-135m")
    if not folder.is_dir():
        pytest.skip("needs the download: tutelage models get smollm2-135m")
    model = load(folder, compute=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    rows = [model.tokenizer.encode("A gripping, funny film from 1994 that"), model.tokenizer.encode("Dull.")]
    ours = torch.log_softmax(our_logits(model.decoder, rows), -1)
    wanted = torch.log_softmax(their_logits(theirs, rows), -1)
    torch.testing.assert_close(ours, wanted, atol=2e-4, rtol=0)  # logits of 35 leave fp32 about 1e-5 relative
    best = ours[len(rows[0]) - 1].argmax().item()
    assert model.tokenizer.decode([best]).strip().isalpha()


@pytest.mark.parametrize("name", ["cuda:7", "abacus"])
def test_a_device_that_is_not_there_is_a_clear_error(name):
    with pytest.raises(ModelError, match=f"device is '{name}'.*use cpu"):
        load("tiny", device=name)
