"""Settings from file and flags, and a project folder from Python: whatever is wrong is named where it stands."""

from pathlib import Path
from typing import Any, Literal, Self

import pytest
import yaml
from pydantic import Field, model_validator

import tutelage
from tutelage.config import Section
from tutelage.errors import ConfigError
from tutelage.folder import SECTIONS, SEEDED, Core, ProjectFolder
from tutelage.learn.sft import SFTConfig
from tutelage.model.adapters import Full, Lora, Train
from tutelage.settings import FLAG, Layer, flat, from_flag, leaves, nested, read_yaml, resolve, to_yaml
from tutelage.stage import Settings
from tutelage.terminal import human


class Inner(Section):
    rate: float = 0.5
    """Learning rate."""
    bound: float | None = None
    """Bound, in nats."""


class Whole(Section):
    """Settings of a made-up stage."""

    steps: int = Field(default=3, ge=1)
    """Optimiser steps."""
    minibatches: int = 1
    way: Literal["fast", "slow"] = "fast"
    inner: Inner = Inner(rate=0.25)
    train: Train = Full()
    parts: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.steps % self.minibatches:
            raise ValueError(f"steps {self.steps} isn't a multiple of minibatches {self.minibatches}")
        return self


def merged(file: dict[str, Any], **flags: Any) -> Whole:
    dotted = {key.replace("__", "."): value for key, value in flags.items()}
    return resolve(Whole, [Layer("tutelage.yaml", file), Layer(FLAG, nested(dotted))])


def test_flags_over_file_over_defaults() -> None:
    found = merged({"steps": 4, "inner": {"bound": 2}}, steps="6", inner__rate="1e-3")
    assert found.steps == 6
    assert found.inner == Inner(rate=1e-3, bound=2.0)
    assert found.way == "fast"


def test_a_rule_across_file_and_flag_sees_both() -> None:
    assert merged({"steps": 4}, minibatches="2").minibatches == 2
    with pytest.raises(ConfigError, match=r"^tutelage.yaml and flags: steps 5 isn't a multiple of minibatches 2$"):
        merged({"steps": 5}, minibatches="2")


def test_another_kind_replaces_the_section_and_the_same_kind_is_merged() -> None:
    assert merged({"train": {"kind": "lora", "rank": 4}}, train__alpha="8").train == Lora(rank=4, alpha=8)
    assert merged({"train": {"kind": "lora", "rank": 4}}, train__kind="full").train == Full()


@pytest.mark.parametrize(
    ("file", "flags", "message"),
    [
        ({"stepps": 3}, {}, "tutelage.yaml: unknown key 'stepps'; did you mean 'steps'?"),
        ({"inner": {"rte": 3}}, {}, "tutelage.yaml: unknown key 'inner.rte'; did you mean 'inner.rate'?"),
        ({"rate": 3}, {}, "tutelage.yaml: unknown key 'rate'; did you mean 'inner.rate'?"),
        ({"inner": {"xyz": 3}}, {}, "tutelage.yaml: unknown key 'inner.xyz'; known here: inner.bound, inner.rate"),
        ({"steps": "many"}, {}, "tutelage.yaml: 'steps' is 'many', expected a valid integer"),
        ({"steps": 0}, {}, "tutelage.yaml: 'steps' is 0, expected greater than or equal to 1"),
        ({"steps": 2}, {"steps": "x"}, "flag --steps: 'steps' is 'x', expected a valid integer"),
        ({"parts": [1, "x"]}, {}, "tutelage.yaml: 'parts.1' is 'x', expected a valid integer"),
        ({"parts": [1]}, {"parts": [1, "x"]}, "flag --parts: 'parts.1' is 'x', expected a valid integer"),
        ({"inner": 3}, {}, "tutelage.yaml: 'inner' is 3, expected a section, with settings of its own below it"),
        ({"way": "fats"}, {}, "tutelage.yaml: 'way' is 'fats', expected 'fast' or 'slow'"),
        (
            {"train": {"kind": "lroa"}},
            {},
            "tutelage.yaml: 'train.kind' is 'lroa', expected one of top, lora, full; did you mean 'lora'?",
        ),
        (
            {},
            {"train.rank": "3"},
            "flag --train.rank: unknown key 'train.rank'; "
            "it is a setting of another kind than this one: set 'train.kind' too",
        ),
    ],
)
def test_faults_name_place_key_value_and_what_to_do(file: dict[str, Any], flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(Whole, [Layer("tutelage.yaml", file), Layer(FLAG, nested(flags))])
    assert str(caught.value) == message


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        merged({"stepps": 3, "way": 1}, inner__rate="x")
    assert len(str(caught.value).splitlines()) == 3


def test_leaves_have_help_and_the_default_that_counts_here() -> None:
    found = {leaf.key: leaf for leaf in leaves(Whole)}
    assert list(found) == [
        "steps",
        "minibatches",
        "way",
        "inner.rate",
        "inner.bound",
        "train.kind",
        "train.layers",
        "train.rank",
        "train.alpha",
        "parts",
    ]
    assert (found["inner.rate"].default, found["inner.rate"].help) == (0.25, "Learning rate.")  # not Inner's own 0.5
    assert found["train.kind"].choices == ("top", "lora", "full")
    assert found["train.rank"].help.endswith("Only of kind lora.")
    assert from_flag(found["inner.bound"], "none") is None
    assert from_flag(found["parts"], "1,2") == [1, 2]


def test_flat_and_nested_are_inverse() -> None:
    tree = {"a": {"b": {"c": 1}, "d": 2}, "e": 3}
    assert nested(dict(flat(tree))) == tree


def test_yaml_faults_name_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    with pytest.raises(ConfigError, match="tutelage init"):
        read_yaml(path)
    path.write_text("model: tiny\nsft: [1,\n")
    with pytest.raises(ConfigError, match=r"x.yaml, line 3: this is not YAML"):
        read_yaml(path)
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"found \[1\], expected settings"):
        read_yaml(path)
    path.write_text("")
    assert read_yaml(path) == {}


def test_the_sections_a_light_command_skips_are_those_there_are() -> None:
    assert {*Core.model_fields, *SECTIONS} == set(Settings.model_fields)
    assert all("seed" in Settings.model_fields[name].annotation.model_fields for name in SEEDED)  # type: ignore[union-attr]


def test_a_new_project_reads_back_as_the_defaults(tmp_path: Path) -> None:
    project = tutelage.init(tmp_path / "films", model="tiny")
    assert project.folder.core() == Core(model="tiny")
    assert project.folder.settings(Settings) == Settings(model="tiny")
    assert (tmp_path / "films" / "tutelage.db").exists()
    assert project.folder.runs.is_dir()
    with pytest.raises(ConfigError, match="is there already"):
        tutelage.init(tmp_path / "films")
    commented = (tmp_path / "films" / "tutelage.yaml").read_text()
    for line in commented.splitlines():  # the examples in comments are settings that exist
        if line.startswith("# ") and line.endswith(":"):
            assert line[2:-1] in Settings.model_fields
    opened_up = "\n".join(line.removeprefix("# ") for line in commented.splitlines()[2:])
    (tmp_path / "films" / "tutelage.yaml").write_text(opened_up)
    assert project.folder.settings(Settings).sft.steps == 200


def test_resolved_settings_are_themselves_a_config(tmp_path: Path) -> None:
    folder = tutelage.init(tmp_path, model="tiny").folder
    resolved = folder.settings(Settings, {"sft.train.kind": "lora", "sft.train.rank": "3", "ppo.kl.target": None})
    again = tmp_path / "config.yaml"
    again.write_text(to_yaml(resolved))
    assert ProjectFolder.at(tmp_path, again).settings(Settings) == resolved
    assert resolved.sft.train == Lora(rank=3)


def test_the_projects_seed_is_every_stages_that_has_none(tmp_path: Path) -> None:
    (tmp_path / "tutelage.yaml").write_text("seed: 7\nppo: {seed: 3}\n")
    found = ProjectFolder.at(tmp_path).settings(Settings)
    assert (found.sft.seed, found.reward.seed, found.ppo.seed) == (7, 7, 3)
    found = ProjectFolder.at(tmp_path).settings(Settings, {"seed": "9"})
    assert (found.sft.seed, found.ppo.seed) == (9, 3)


def test_light_settings_ignore_stages_but_not_typos(tmp_path: Path) -> None:
    (tmp_path / "tutelage.yaml").write_text("model: tiny\nsft: {steps: 3}\n")
    assert ProjectFolder.at(tmp_path).core().model == "tiny"
    (tmp_path / "tutelage.yaml").write_text("sfft: {steps: 3}\n")
    with pytest.raises(ConfigError, match=r"tutelage.yaml: unknown key 'sfft'; did you mean 'sft'\?"):
        ProjectFolder.at(tmp_path).core()


def test_paths_start_at_the_project(tmp_path: Path) -> None:
    folder = tutelage.init(tmp_path / "p", model="mine").folder
    assert folder.store_url(folder.core()) == str(tmp_path / "p" / "tutelage.db")
    assert folder.store_url(Core(store="postgresql://host/name")) == "postgresql://host/name"
    assert folder.model(folder.core()) == "mine"
    (tmp_path / "p" / "mine").mkdir()
    assert folder.model(folder.core()) == str(tmp_path / "p" / "mine")


def test_three_lines_of_python_train(tmp_path: Path) -> None:
    project = tutelage.init(tmp_path, model="tiny")
    lines = "".join(f'{{"prompt": "Film {i} was", "completion": " good"}}\n' for i in range(30))
    (tmp_path / "d.jsonl").write_text(lines)
    assert project.import_file(tmp_path / "d.jsonl", annotator=human("ann")).added == 30
    run = tutelage.open(tmp_path).sft({"sft.steps": 2, "sft.batch_size": 4, "sft.max_tokens": 40})
    assert run.facts["status"] == "done"
    assert (run.final / "config.json").exists()
    assert run.facts["data"]["annotators"][0]["name"] == "ann"
    assert yaml.safe_load((run.path / "config.yaml").read_text())["sft"]["steps"] == 2
    assert SFTConfig(**yaml.safe_load((run.path / "config.yaml").read_text())["sft"]).batch_size == 4
