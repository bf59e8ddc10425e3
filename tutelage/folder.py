"""A project folder: tutelage.yaml, the database of feedback, and runs/. Reads the settings; trains nothing."""

import difflib
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tutelage.checkpoint import write_atomically
from tutelage.config import Section, Seed
from tutelage.errors import ConfigError
from tutelage.settings import FLAG, Layer, nested, read_yaml, resolve

CONFIG = "tutelage.yaml"
SECTIONS = (
    "sft",
    "reward",
    "ppo",
    "dpo",
    "group",
    "raft",
    "rules",
    "propositions",
    "safety",
    "sampling",
    "evaluate",
    "judge",
    "constitution",
)  # beside `Core` in the file; checked when training code is loaded
SEEDED = ("sft", "reward", "ppo", "dpo", "group", "raft")
C = TypeVar("C", bound="Core")
NEW_CONFIG = """\
# Settings of this project. Flags win over them: `tutelage sft --sft.steps 100`.
# `tutelage sft --help` lists every setting of a stage with its unit and default; what is not here has its default.
model: {model}  # Hugging Face folder or name, .gguf file, smollm2-135m (after `tutelage models get`), or tiny
store: {store}  # SQLite file, or a postgresql:// URL
seed: 0

# sft:
#   steps: 200
# reward:
#   steps: 200
# ppo:
#   steps: 40
#   kl: {{coefficient: 0.05}}
# sampling: {{max_tokens: 32}}
"""


class Core(Section):
    """What every command needs to know."""

    model: str = "smollm2-135m"
    """Hugging Face folder or name, .gguf file, `smollm2-135m` (after `tutelage models get`), or `tiny`."""
    store: str = "tutelage.db"
    """Database of feedback: a SQLite file, relative to the project folder, or a postgresql:// URL."""
    device: str = "cpu"
    """Where networks run: cpu, cuda, cuda:1, mps, or auto for a GPU if there is one. Measured on CPUs and an H100."""
    seed: Seed = 0
    """Seed of every stage that has none of its own."""


def make_folder(path: Path) -> None:
    """Make a folder where there is none. Raises ConfigError where there can't be one."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}. Name another folder.") from error


@dataclass(frozen=True)
class ProjectFolder:
    """Where a project lies, and the file its settings are read from."""

    path: Path
    config: Path

    @property
    def given(self) -> tuple[str, ...]:
        """`config`, where the settings are read from another file than the project's own."""
        return () if self.config == self.path / CONFIG else ("config",)

    @classmethod
    def at(cls, path: Path | str = ".", config: Path | str | None = None) -> "ProjectFolder":
        """The project in a folder, with the settings in it or another file's."""
        return cls(Path(path), Path(path) / CONFIG if config is None else Path(config))

    @classmethod
    def init(cls, path: Path | str, *, model: str, store: str) -> "ProjectFolder":
        """Make a new project. Raises ConfigError where there is one already, and where there can't be one."""
        folder = cls.at(path)
        if folder.config.exists():
            raise ConfigError(f"{folder.config} is there already: edit it, or choose another folder")
        make_folder(folder.runs)
        write_atomically(folder.config, NEW_CONFIG.format(model=_scalar(model), store=_scalar(store)))
        return folder

    @property
    def runs(self) -> Path:
        """The folder of run directories."""
        return self.path / "runs"

    @property
    def flag(self) -> str:
        """` --project PATH`, to end a command that somebody is told to type; empty for the current folder."""
        return "" if self.path == Path() else f" --project {shlex.quote(str(self.path))}"

    def core(self, flags: Mapping[str, Any] | None = None) -> Core:
        """Model, store and seed; the sections of the stages are not looked into, so that no training code is loaded."""
        layers = [Layer(one.source, _without_sections(one)) for one in self._layers(flags or {})]
        return resolve(Core, layers)

    def settings(self, whole: type[C], flags: Mapping[str, Any] | None = None) -> C:
        """All settings, flags (by dotted key) over the file. Raises ConfigError naming file or flag, key and value."""
        layers = self._layers(flags or {})
        seed = resolve(whole, layers).seed  # checked by itself first, so that a wrong one is told of once
        return resolve(whole, [Layer("seed", {name: {"seed": seed} for name in SEEDED}), *layers])

    def store_url(self, core: Core) -> str:
        """The database as `Store` takes it: relative paths start at the project folder."""
        return core.store if "://" in core.store else str(self.path / core.store)

    def model(self, core: Core) -> str:
        """The model as `causal.load` takes it: a folder or file in the project comes first."""
        inside = self.path / core.model
        return str(inside) if inside.exists() else core.model

    def _layers(self, flags: Mapping[str, Any]) -> list[Layer]:
        return [Layer(str(self.config), read_yaml(self.config)), Layer(FLAG, nested(flags))]


def _scalar(text: str) -> str:
    """As YAML writes it, in quotes where it needs them."""
    return yaml.safe_dump(text, allow_unicode=True, width=math.inf).removesuffix("\n").removesuffix("\n...")


def _without_sections(layer: Layer) -> dict[str, Any]:
    kept = {key: value for key, value in layer.values.items() if key not in SECTIONS}
    for key in kept:
        near = difflib.get_close_matches(key, SECTIONS, n=1, cutoff=0.7)
        if near and key not in Core.model_fields:
            raise ConfigError(f"{layer.source}: unknown key '{key}'; did you mean '{near[0]}'?")
    return kept
