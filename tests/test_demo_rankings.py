"""Which rankings of a demo's folder count: those of its own completions, by whom it asks now."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tutelage.feedback.store import Store
from tutelage.loop import demo_rankings
from tutelage.loop.demo import Scene
from tutelage.loop.demo_config import DemoConfig
from tutelage.loop.demo_rankings import collect
from tutelage.records import Annotator, Comparison, Completion, Prompt, Source

PROMPTS = [p for i in range(12) if (p := Prompt.text(f"Film {i} was")).split == "train"][:4]


def ranked(prompt: Prompt, texts: Any, kind: str) -> Comparison:
    who = Annotator(id=kind, kind=kind, name=kind)  # type: ignore[arg-type]
    ranks = tuple(range(1, len(texts) + 1))
    return Comparison(
        prompt=prompt, completions=tuple(texts), ranks=ranks, shown=tuple(range(len(texts))), annotator=who
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "d.db") as made:
        yield made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Prompt]:
    """Every prompt that is answered anew."""
    seen: list[Prompt] = []

    def generate(_policy: Any, prompts: Any, k: int, *_args: Any, **_named: Any) -> Any:
        seen.extend(prompts)
        return [list(range(k)) for _ in prompts]

    def completions(scene: Any, _policy: Any, group: Any) -> list[Completion]:
        run = scene.runs["sft"].id
        return [Completion(text=f"{run} {i}", source=Source(model="m", run=run)) for i in group]

    monkeypatch.setattr(demo_rankings, "generate", generate)
    monkeypatch.setattr(demo_rankings, "completions", completions)
    monkeypatch.setattr(demo_rankings, "panel_ranks", lambda _, prompt, texts: ranked(prompt, texts, "simulated"))
    return seen


def scene(run: str = "sft-a", **changes: Any) -> Any:
    config = DemoConfig.miniature().model_copy(update={"labelled_prompts": len(PROMPTS), **changes})
    return SimpleNamespace(
        config=config,
        runs={"sft": SimpleNamespace(id=run)},
        prompts=lambda split, count: PROMPTS[:count],
        timed=lambda *_: nullcontext(),
    )


def by_person(prompt: Prompt, texts: Any) -> Comparison:
    return ranked(prompt, texts, "human")


def test_rankings_by_others_or_of_other_texts_do_not_count(store: Store, asked: list[Prompt]) -> None:
    policy: Any = None
    first = collect(scene(), policy, store, None)
    assert [c.prompt for c in first] == asked == PROMPTS
    asked.clear()
    assert collect(scene(), policy, store, None) == first
    assert asked == []
    for other, annotate in ((scene(), by_person), (scene("sft-b"), None), (scene(completions=3), None)):
        found = collect(other, policy, store, annotate)
        assert asked == PROMPTS
        assert len(found) == len(PROMPTS)
        assert not {c.id for c in found} & {c.id for c in first}
        asked.clear()
    assert collect(scene(), policy, store, None) == first
    assert store.count("comparisons") == 4 * len(PROMPTS)


def test_a_stage_that_learned_from_other_data_is_not_found_again(tmp_path: Path) -> None:
    config = DemoConfig.miniature()
    made = Scene(config, tmp_path, *[None] * 5)  # type: ignore[arg-type]
    first = made.stage("reward", config.reward, (), data={"rankings": "a"})
    assert made.stage("reward", config.reward, (), data={"rankings": "a"}).id == first.id
    other = made.stage("reward", config.reward, (), data={"rankings": "b"})
    assert other.id != first.id
    assert other.facts["data"] == {"rankings": "b"}
