"""A causal language model with its tokenizer: load, save, fingerprint, and the machine's best number format."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tutelage.errors import ModelError
from tutelage.model.adapters import merge
from tutelage.model.chat import Tokenizer, read_tokenizer
from tutelage.model.decoder import Decoder
from tutelage.model.download import MODELS, model_folder
from tutelage.model.foreign import ForeignDecoder
from tutelage.model.gguf import GgufFile
from tutelage.model.kernels import library
from tutelage.model.layout import NotServedError, config_json, fill, parse_config, tensor_lookup, write_tensors
from tutelage.model.native import PIECES
from tutelage.model.pieces import EAGER, Pieces, compiled
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer


@dataclass(frozen=True)
class Model:
    """A network, the tokenizer it was trained with, and where they come from."""

    decoder: Decoder
    tokenizer: Tokenizer
    name: str


def best_device() -> torch.device:
    """CUDA where there is one, then Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def known_device(name: torch.device | str) -> torch.device:
    """The device of that name; `auto` is the best there is.

    Raises ModelError when torch does not know it, or this machine has none.
    """
    try:
        device = best_device() if name == "auto" else torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device is {str(name)!r}, which this machine does not have: use cpu ({error})") from error
    return device


def best_compute(device: torch.device | str = "cpu") -> torch.dtype:
    """bf16 only where it is faster than fp32: GPUs of Ampere or later, CPUs with AMX or AVX-512 bf16; else fp32."""
    kind = torch.device(device).type
    if kind == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif kind == "cpu":
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32


def best_pieces(device: torch.device | str = "cpu") -> Pieces:
    """What lies between matrix products: in C++ on a CPU where a compiler is at hand, by torch.compile on CUDA."""
    kind = torch.device(device).type
    if kind == "cuda":
        return compiled()
    return PIECES if kind == "cpu" and library() is not None else EAGER


def fingerprint(decoder: nn.Module) -> str:
    """16 hexadecimal digits of a SHA-256 over every weight's name, shape and fp32 bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(decoder.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def load(name_or_path: str | Path, *, compute: torch.dtype | None = None, device: torch.device | str = "cpu") -> Model:
    """A model by folder, GGUF file, name in the cache (`smollm2-135m`), hub name (`owner/name`), or `tiny`.

    Weights become fp32 whatever they are stored in; `compute` None means the best for the device. Llama, Mistral, Qwen2
    and Qwen3 shapes run in our decoder, everything else through transformers (`foreign.py`). Raises ModelError.
    """
    name, path, device = str(name_or_path), Path(name_or_path).expanduser(), known_device(device)
    if path.suffix == ".gguf" and path.is_file():
        file = GgufFile(path)
        decoder, tokenizer = fill(Decoder(file.config), file.tensor), Tokenizer(file.tokenizer())
    elif name == "tiny" and not path.exists():
        tokenizer = tiny_tokenizer()
        decoder = tiny_decoder(vocab=len(tokenizer))
    else:
        folder = _folder(name, path)
        decoder, tokenizer = _read_folder(folder), read_tokenizer(folder)
    if len(tokenizer) > decoder.config.vocab_size:
        sizes = f"{len(tokenizer)} tokens, the model {decoder.config.vocab_size}"
        raise ModelError(f"the tokenizer of {name} knows {sizes}: they are of different models")
    decoder = decoder.to(device).compute_in(compute or best_compute(device)).use(best_pieces(device))
    return Model(decoder, tokenizer, name)


def save(model: Model, folder: Path) -> None:
    """Write safetensors in fp32, config and tokenizer, as transformers and `load` read them. LoRA is merged."""
    folder.mkdir(parents=True, exist_ok=True)
    decoder, tokenizer = merge(model.decoder), model.tokenizer
    tokenizer.save(folder)
    if isinstance(decoder, ForeignDecoder):
        decoder.save(folder)
        return
    write_tensors(decoder, folder)
    config = config_json(decoder.config, begin=tokenizer.begin, end=tokenizer.end, pad=tokenizer.pad)
    _write_json(folder / "config.json", config)
    chosen = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "generation_config.json", chosen)


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _folder(name: str, path: Path) -> Path:
    """Where the model lies: the path itself, the cache, or the hub's snapshot."""
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path} has no config.json: it is no model folder")
        return path
    if name in MODELS:
        cached = model_folder(name)
        if not cached.is_dir():
            raise ModelError(f"{name} is not on this machine yet: run `tutelage models get {name}`")
        return cached
    if name.count("/") != 1 or path.is_absolute() or name.startswith("."):
        raise ModelError(
            f"there is no model at {name}: give a folder, a .gguf file, {', '.join(MODELS)}, owner/name or tiny"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"there is no folder {name}, and the hub gave no model of that name: {error}") from error


def _read_folder(folder: Path) -> Decoder | ForeignDecoder:
    from transformers import AutoConfig

    try:
        raw = AutoConfig.from_pretrained(str(folder)).to_dict()
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}/config.json is no config that transformers knows: {error}") from error
    try:
        return fill(Decoder(parse_config(raw)), tensor_lookup(folder))
    except NotServedError:
        return ForeignDecoder.read(folder)
