"""The pages say what the code says: every command, setting, metric, error and file; every link and example holds.

`python tests/test_docs.py` writes the generated part of docs/cli.md anew.
"""

import ast
import inspect
import io
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

import tutelage
from tutelage import errors
from tutelage.cli import COMMANDS, app, prepared
from tutelage.config import Section
from tutelage.project import Project
from tutelage.settings import Layer, leaves, resolve

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, DOCS = ROOT / "tutelage", ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])
MARK = "<!-- Generated from the code by `python tests/test_docs.py`: edit docstrings, not this page. -->\n"
METRIC = re.compile(r'"((?:sft|reward|ppo|dpo|group|raft)/[a-z0-9_]+)"')
WIDTH = 10_000  # no line is folded


def page(name):
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(path, language):
    """The fenced examples of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def all_blocks(language):
    return [pytest.param(b, id=f"{p.stem}-{i}") for p in PAGES for i, b in enumerate(blocks(p, language))]


# ---- docs/cli.md


def help_of(*tokens):
    """A command's help as plain text, one line a flag."""
    from cyclopts.help import PlainFormatter
    from rich.console import Console

    text, before = io.StringIO(), app.help_formatter
    app.help_formatter = PlainFormatter(indent_width=2)
    try:
        app.help_print(list(tokens), console=Console(file=text, width=WIDTH, color_system=None))
    finally:
        app.help_formatter = before
    return [line.rstrip() for line in text.getvalue().splitlines()]


def as_markdown(lines):
    """Usage as code, flags as a list, headings bold."""
    out = []
    for line in lines:
        if line.startswith("Usage: "):
            out.append(f"`{line.removeprefix('Usage: ')}`")
        elif line.startswith("  "):
            flag, _, said = line.strip().partition(": ")
            out.append(f"- `{flag.rstrip(':')}`" + (f": {said}" if said else ""))
        elif line.endswith(":"):
            out += [f"**{line.removesuffix(':')}**", ""]
        else:
            out.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip()


def commands():
    """Every command and subcommand, as its words."""
    for name, *_ in COMMANDS:
        yield (name,)
        resolved = app[name]
        yield from ((name, sub) for sub in resolved if not sub.startswith("-") and resolved.default_command is None)


def generated():
    parts = [f"## tutelage {' '.join(words)}\n\n{as_markdown(help_of(*words))}\n" for words in commands()]
    return "\n".join(parts)


def test_the_commands_page_is_what_help_says():
    _, mark, written = page("cli.md").partition(MARK)
    assert mark, "docs/cli.md has lost the line that says where its generated part begins"
    assert written.strip() == generated().strip(), "docs/cli.md is stale: run `python tests/test_docs.py`"


SERVES = ("studio",)  # runs until it is stopped, and ends in no figures


def test_every_command_that_ends_in_figures_takes_json():
    every = list(commands())
    groups = {words[:1] for words in every if len(words) > 1}
    asked = [words for words in every if words[0] not in SERVES and words not in groups]
    assert len(asked) > 15
    assert [" ".join(words) for words in asked if "--json" not in "".join(help_of(*words))] == []


# ---- metrics, settings, errors


def page_of(kind):
    """The page that explains the metrics of a kind of run."""
    return page({"raft": "best-of-n.md"}.get(kind, f"{kind}.md"))


def test_every_metric_is_explained_on_its_page():
    found = {m for p in PACKAGE.rglob("*.py") for m in METRIC.findall(p.read_text(encoding="utf-8"))}
    assert len(found) > 25
    missing = sorted(m for m in found if f"`{m}`" not in page_of(m.split("/")[0]))
    assert not missing, f"metrics that no page explains: {missing}"


def test_every_metric_explained_is_logged():
    """Figures that several algorithms share stand in the code without the algorithm's name."""
    code = "".join(p.read_text(encoding="utf-8") for p in PACKAGE.rglob("*.py"))
    for name in ("sft", "reward", "ppo", "dpo", "group", "raft"):
        for metric in re.findall(rf"^\| `({name}/[a-z0-9_]+)`", page_of(name), re.MULTILINE):
            said = f'"{metric}"' in code or f'"{metric.split("/")[1]}"' in code
            assert said, f"{metric} is explained, but nothing logs it"


def sections(section):
    """The section and all sections in it, one class each."""
    yield section
    for info in section.model_fields.values():
        for inner in _inner(info.annotation):
            yield from sections(inner)


def _inner(annotation):
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [s for a in getattr(annotation, "__args__", ()) for s in _inner(a)]


def test_every_setting_is_on_a_page():
    from tutelage.loop.demo import DemoConfig
    from tutelage.stage import Settings

    text = "".join(p.read_text(encoding="utf-8") for p in PAGES)
    for whole in (Settings, DemoConfig):
        missing = [leaf.key for leaf in leaves(whole) if f"--{leaf.key}" not in text]
        assert not missing, f"settings that no page names: {missing}"
    fields = {(s.__name__, name) for s in sections(Settings) for name in s.model_fields}
    assert {("SFTConfig", "steps"), ("KLConfig", "budget"), ("Lora", "alpha"), ("SamplingParams", "slots")} <= fields
    flags = {leaf.key.rsplit(".", 1)[-1] for leaf in leaves(Settings)}
    groups = {key for leaf in leaves(Settings) for key in leaf.key.split(".")[:-1]}
    of_rules = {name for _, name in fields if f"`{name}`" in page("rules.md")}  # lists of sections have no flags
    assert {name for _, name in fields} <= flags | groups | of_rules


def test_every_error_is_on_its_page():
    text = page("errors.md")
    for name, one in inspect.getmembers(errors, inspect.isclass):
        assert issubclass(one, errors.TutelageError)
        assert f"`{name}`" in text


# ---- links, paths, examples


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{path.name} links to {target}, which is not there"
        if anchor:
            assert anchor in _anchors(there), f"{path.name} links to {target}, but there is no such heading"


def _anchors(path):
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_the_tour_names_every_file_and_no_other():
    named = set(re.findall(r"`([\w/.]+\.(?:py|html|css|md|toml))`", page("tour.md")))
    for name in named:
        assert (PACKAGE / name).is_file() or (ROOT / name).is_file(), f"the tour names {name}, which is not there"
    files = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if p.name != "__init__.py"}
    assert len(files) > 50
    assert not files - named, f"the tour leaves out {sorted(files - named)}"


def test_tests_that_pages_name_exist():
    code = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "tests").glob("*.py")}
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"`(test_\w+\.py)`", text):
            assert name in code, f"{path.name} names {name}, which is not there"
        for name in re.findall(r"`(test_\w+)`", text):
            assert any(f"def {name}(" in c for c in code.values()), f"{path.name} names {name}, which is no test"


def test_code_that_pages_name_exists():
    """`learn/ppo.py: ppo_loss` names a file and something in it."""
    for path in PAGES:
        for name, things in re.findall(r"`([\w/]+\.py): ([\w.`, ]+)`", path.read_text(encoding="utf-8")):
            code = (PACKAGE / name).read_text(encoding="utf-8")
            for thing in re.findall(r"\w+", things):
                assert re.search(rf"\b{thing}\b", code), f"{path.name}: {name} has no {thing}"


@pytest.mark.parametrize("text", all_blocks("yaml"))
def test_yaml_examples_are_settings(text):
    from tutelage.stage import Settings

    resolve(Settings, [Layer("example", yaml.safe_load(text))])


def test_the_presets_say_what_the_papers_do():
    presets = [yaml.safe_load(b)["ppo"] for b in blocks(DOCS / "ppo.md", "yaml") if b.startswith("# preset")]
    from tutelage.learn.ppo import PPOConfig

    found = [PPOConfig.model_validate(p) for p in presets]
    assert [c.kl.coefficient for c in found] == [0.15, 0.03, 0.05, 0.02]
    assert [c.sampling.temperature for c in found] == [0.7, 0.7, 0.7, 1.0]
    assert [c.batch_size for c in found] == [512, 32, 512, 512]
    episodes = [c.steps * c.batch_size for c in found]
    assert episodes == pytest.approx([1e6, 1e6, 1e6, 256e3], rel=1e-3)
    assert (found[0].kl.target, found[3].epochs, found[3].ema) == (6.0, 1, 0.992)


@pytest.mark.parametrize("text", all_blocks("python"))
def test_python_examples_call_what_exists(text):
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="project" | "tutelage" as owner), attr=verb)):
                of = {"project": Project, "tutelage": tutelage}[owner]
                assert {k.arg for k in node.keywords} <= set(inspect.signature(getattr(of, verb)).parameters)


@pytest.mark.parametrize("text", all_blocks("bash"))
def test_commands_in_examples_parse(text):
    lines = [line.partition("  #")[0].strip() for line in text.replace("\\\n", " ").splitlines()]
    for line in lines:
        if line.startswith("tutelage "):
            tokens = prepared(shlex.split(line)[1:])
            app.parse_args(tokens, print_error=False, exit_on_error=False, verbose=False)


def test_no_page_has_an_absolute_path():
    for path in PAGES:
        assert not re.search(r"(?<![\w.:/<>])/(?:home|tmp|work|root|Users)/", path.read_text(encoding="utf-8")), path


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    head = page("cli.md").partition(MARK)[0]
    (DOCS / "cli.md").write_text(f"{head}{MARK}\n{generated()}", encoding="utf-8")
    print("docs/cli.md is up to date")
