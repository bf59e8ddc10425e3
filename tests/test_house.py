"""The house rules of docs/architecture.md, held by the machine: imports, sizes, names, and words in docs."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tutelage.cli import COMMANDS
from tutelage.commands.constitution import constitution
from tutelage.commands.judge import judge
from tutelage.commands.look import models, runs

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tutelage"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
MOST_LINES, MOST_FUNCTION_LINES = 300, 60
LEVELS = (  # a module may import from the levels above its own, and from its own package
    ("errors", "records", "config", "allocator"),
    ("settings", "checkpoint", "progress"),
    ("runs",),
    ("history", "questions"),
    ("terminal",),
    ("model", "feedback"),
    ("sample",),
    ("learn", "judge"),
    ("evaluate",),
    ("quality",),
    ("folder",),
    ("stage",),
    ("wire",),
    ("judging",),
    ("rule_based",),
    ("scoring",),
    ("roads", "roads_rl"),
    ("trial", "prioritising"),
    ("constitutional",),
    ("project",),
    ("studio",),
    ("loop",),
    ("bench",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: i for i, level in enumerate(LEVELS) for name in level}
VAGUE = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers", "handler", "handlers", "base"}
NEVER_NEEDED = {"ray", "vllm", "deepspeed", "trl", "flash_attn", "peft", "accelerate", "datasets", "wandb"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def part_of(path: Path) -> str:
    """The file or folder of the tree that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "tutelage":
            yield from (f"tutelage.{alias.name}" for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def wrong_imports(part: str, tree: ast.Module) -> list[str]:
    found = []
    for module in imports(tree):
        if module.startswith("tutelage."):
            other = module.split(".")[1]
            if other != part and LEVEL[other] >= LEVEL[part]:
                found.append(module)
    return found


def test_every_part_has_a_level() -> None:
    assert {part_of(path) for path in FILES} - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("path", [p for p in FILES if p != PACKAGE / "__init__.py"], ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    assert wrong_imports(part_of(path), TREES[path]) == []


def test_a_wrong_import_would_be_seen() -> None:
    tree = ast.parse("def f():\n    from tutelage.evaluate.arena import compare\nimport tutelage.judge.sentiment\n")
    assert wrong_imports("learn", tree) == ["tutelage.judge.sentiment", "tutelage.evaluate.arena"]


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=name_of)
def test_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    limit = MOST_LINES if path in TREES else 2 * MOST_LINES
    assert len(text.splitlines()) <= limit
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno + 1 <= MOST_FUNCTION_LINES, node.name


def test_names_say_something() -> None:
    assert [name_of(p) for p in [*FILES, *PACKAGE.rglob("*/")] if VAGUE & set(p.stem.split("_"))] == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_habits(path: Path) -> None:
    tree = TREES[path]
    assert ast.get_docstring(tree) is not None or len(tree.body) < 3, "open the file by saying what it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            assert not isinstance(node.args[1], ast.Constant), f"line {node.lineno}: {node.func.id} of a known name"
        if isinstance(node, ast.ExceptHandler) and caught(node) & {"", "Exception", "BaseException"}:
            assert any(isinstance(n, ast.Raise) for n in ast.walk(node)), f"line {node.lineno}: a broad except"


def caught(handler: ast.ExceptHandler) -> set[str]:
    """The names of what is caught; an empty one for a bare except."""
    if handler.type is None:
        return {""}
    return {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}


OTHERS = PACKAGE / "bench" / "peers"  # scripts that run in environments of other libraries


@pytest.mark.parametrize("path", [p for p in FILES if p.parent != OTHERS], ids=name_of)
def test_nothing_needs_what_not_everybody_has(path: Path) -> None:
    assert {module.split(".")[0] for module in imports(TREES[path])} & NEVER_NEEDED == set()


def test_the_command_line_starts_without_heavy_parts() -> None:
    code = "import sys, tutelage.cli; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "transformers", "sqlalchemy", "pydantic", "numpy", "sklearn", "scipy"} & set(loaded) == set()
    assert "cyclopts" in loaded


def documentation() -> str:
    return "\n".join(p.read_text(encoding="utf-8") for p in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))])


def metric_names() -> list[str]:
    """Every metric that training logs, as its literal stands in learn/."""
    found = set()
    for path, tree in TREES.items():
        if part_of(path) == "learn":
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found |= set(re.findall(r"^(?:sft|reward|ppo|dpo|group|raft)/[a-z0-9_]+$", node.value))
    return sorted(found)


def test_there_are_metrics() -> None:
    assert {"sft/loss", "reward/accuracy", "ppo/kl"} <= set(metric_names())


@pytest.mark.parametrize("name", metric_names())
def test_every_metric_is_explained(name: str) -> None:
    assert f"`{name}`" in documentation(), f"explain `{name}` on the algorithm's page in docs/"


def commands() -> Iterator[str]:
    groups = {"runs": runs, "models": models, "judge": judge, "constitution": constitution}
    for name, *_ in COMMANDS:
        inner = [one for one in groups[name] if not one.startswith("-")] if name in groups else [""]
        yield from (f"{name} {one}".strip() for one in inner)


@pytest.mark.parametrize("name", list(commands()))
def test_every_command_is_documented(name: str) -> None:
    assert f"tutelage {name}" in documentation(), f"show `tutelage {name}` in README.md or docs/"
