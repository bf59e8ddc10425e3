"""GGUF files against the transformers models they were written from."""

from pathlib import Path
from typing import Any

import gguf
import gguf_files
import numpy as np
import pytest
import torch

from tutelage.errors import ModelError
from tutelage.model.batch import Packed
from tutelage.model.causal import load
from tutelage.model.gguf import GgufFile, unpermute

ROWS = [[3, 4, 5, 6, 7, 200], [9, 10]]


def random_model(family: str) -> Any:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family.capitalize()}Config")(**gguf_files.shape(family))
    model = getattr(transformers, f"{family.capitalize()}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@torch.no_grad()
def test_logits_are_those_of_the_model_it_was_written_from(family: str, tmp_path: Path) -> None:
    theirs = random_model(family)
    gguf_files.write(theirs, tmp_path / "m.gguf")
    decoder = load(tmp_path / "m.gguf", compute=torch.float32).decoder
    wanted = torch.cat([theirs(input_ids=torch.tensor([row])).logits[0] for row in ROWS])
    torch.testing.assert_close(decoder(Packed.of(ROWS)) @ decoder.head_weight().T, wanted, atol=1e-4, rtol=0)


def q4_1_slowly(block: np.ndarray) -> list[float]:
    """20 bytes → 32 numbers, as ggml lays them out: scale and minimum as fp16, then low nibbles, then high ones."""
    scale, least = (float(x) for x in block[:4].view(np.float16))
    low = [scale * (int(b) & 15) + least for b in block[4:]]
    return low + [scale * (int(b) >> 4) + least for b in block[4:]]


def test_quantised_tensors_come_back_as_ggml_defines_them(tmp_path: Path) -> None:
    theirs = random_model("llama")
    gguf_files.write(theirs, tmp_path / "m.gguf", quantise=gguf.GGMLQuantizationType.Q4_1)
    file, name = GgufFile(tmp_path / "m.gguf"), "model.layers.1.mlp.down_proj.weight"
    raw = next(t for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors if t.name == gguf_files.gguf_name(name))
    slow = [q4_1_slowly(block) for block in np.asarray(raw.data).reshape(-1, 20)]
    found = file.tensor(name)
    torch.testing.assert_close(found, torch.tensor(slow).view(32, 64), atol=1e-6, rtol=1e-5)
    original = theirs.state_dict()[name]
    assert 0 < (found - original).abs().max() < 0.05


def test_unpermute_undoes_llama_cpp_s_permutation() -> None:
    weight = np.arange(24 * 2).reshape(24, 2)
    mixed = gguf_files.permute(weight, 3)
    assert not np.array_equal(mixed, weight)
    assert np.array_equal(unpermute(mixed, 3), weight)
    assert mixed[:4, 0].tolist() == [0, 8, 2, 10]  # rows 0 and 4 of the first head's eight, then 1 and 5


def test_tokenizer_splits_digits_and_never_pads_with_the_end(tmp_path: Path) -> None:
    theirs = random_model("llama")
    gguf_files.write(theirs, tmp_path / "m.gguf")
    tokenizer = load(tmp_path / "m.gguf").tokenizer
    assert (tokenizer.pad, tokenizer.begin, tokenizer.end) == (0, 1, 2)
    assert len(tokenizer.encode("19")) == 2  # there is a merge of 1 and 9, but digits stand alone
    assert len(tokenizer.encode("ab")) == 1
    assert tokenizer.decode(tokenizer.encode("é 19 ab\n")) == "é 19 ab\n"


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "junk.gguf").write_bytes(b"not a model at all, but long enough to look at")
    with pytest.raises(ModelError, match="can't be read as GGUF"):
        load(tmp_path / "junk.gguf")
    writer = gguf.GGUFWriter(tmp_path / "bert.gguf", "bert")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match="architecture 'bert'"):
        load(tmp_path / "bert.gguf")
    gguf_files.write(random_model("llama"), tmp_path / "odd.gguf", rule="deepseek-llm")
    with pytest.raises(ModelError, match="gpt2/deepseek-llm"):
        load(tmp_path / "odd.gguf")
