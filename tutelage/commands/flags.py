"""Settings as flags: every field of a section becomes `--section.field` with its docstring and default as help."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from cyclopts import Group, Parameter

from tutelage.config import Section
from tutelage.settings import Leaf, from_flag, leaves

R = TypeVar("R")
Folder = Annotated[Path, Parameter(name=["--project", "-C"])]
Config = Annotated[Path | None, Parameter(name="--config")]
Json = Annotated[bool, Parameter(name="--json", negative="")]
Resume = Annotated[str | None, Parameter(name="--resume")]


def with_settings(section: type[Section], *keys: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command that takes `settings` (a dict by dotted key) a flag for each setting under these keys."""
    chosen = [leaf for leaf in leaves(section) if leaf.key.split(".")[0] in keys or not keys]

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        hints = get_type_hints(command, include_extras=True)
        own = [
            p.replace(annotation=hints[p.name])
            for p in inspect.signature(command).parameters.values()
            if p.name != "settings"
        ]
        made = {_python_name(leaf): leaf for leaf in chosen}
        flags = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(leaf))
            for name, leaf in made.items()
        ]

        @wraps(command)
        def run(*args: Any, **kwargs: Any) -> R:
            given = {name: value for name in made if (value := kwargs.pop(name, None)) is not None}
            return command(*args, settings={made[n].key: from_flag(made[n], v) for n, v in given.items()}, **kwargs)

        parameters = [*own, *flags]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _python_name(leaf: Leaf) -> str:
    return "set_" + leaf.key.replace(".", "__")


def _annotation(leaf: Leaf) -> Any:
    hint = leaf.hint if leaf.hint in (bool, int, float) or leaf.choices else str
    top = leaf.key.split(".")[0] if "." in leaf.key else "all stages"
    shown = "none" if leaf.default is None else str(leaf.default).lower() if leaf.is_switch else str(leaf.default)
    parameter = Parameter(name=f"--{leaf.key}", help=leaf.help, show_default=shown, group=Group(f"Settings: {top}"))
    return Annotated[hint | None, parameter]
