"""YAML file and flags → one frozen block of settings. Whatever is wrong is named by file or flag, key and value.

Flags win over the file, the file over the defaults. Layers are merged before anything is checked, so that a rule across
two settings sees both, wherever each was set.
"""

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tutelage.config import Section
from tutelage.errors import ConfigError

Tree = dict[str, Any]
S = TypeVar("S", bound=Section)
KIND = "kind"  # the key that says which of several sections one is
FLAG = "flag"
ABSENT = object()


@dataclass(frozen=True)
class Layer:
    """Settings from one place: a file by its name, or `flag`."""

    source: str
    values: Tree


@dataclass(frozen=True)
class Leaf:
    """One setting as a flag shows it."""

    key: str  # dotted, as in the file: sft.optimizer.learning_rate
    help: str
    hint: Any  # its type
    default: Any

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off, so that its flag takes no value."""
        return self.hint is bool

    @property
    def choices(self) -> tuple[Any, ...]:
        """What it may be, where that is a short list; else empty."""
        return get_args(self.hint) if get_origin(self.hint) is Literal else ()


def read_yaml(path: Path) -> Tree:
    """A settings file as nested dictionaries. Raises ConfigError naming file and line."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no settings file {path}: make one by `tutelage init`, or name one by --config"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}, line {line}: this is not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # a character that YAML does not know, a date that there is not
        raise ConfigError(f"{path}: this is not YAML: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: found {found!r}, expected settings such as `model: smollm2-135m`")
    _check_keys(found, path)
    return found


def _check_keys(tree: Any, path: Path) -> None:
    """Raises ConfigError for a key that YAML reads as something else than a name: 1, or `on`."""
    if isinstance(tree, dict):
        for key in tree:
            if not isinstance(key, str):
                raise ConfigError(f"{path}: {key!r} is a key, but settings have names: put it in quotes if it is one")
        tree = list(tree.values())
    for value in tree if isinstance(tree, list) else ():
        _check_keys(value, path)


def to_yaml(section: Section) -> str:
    """The settings as a file that reads back as the same."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def nested(flat: Mapping[str, Any]) -> Tree:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`."""
    tree: Tree = {}
    for key, value in flat.items():
        *above, last = key.split(".")
        place = tree
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return tree


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dictionaries, as (dotted key, value): `nested` the other way round."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def merge(section: type[Section], under: Tree, over: Tree) -> Tree:
    """Both trees, `over` winning. Where there are several kinds of a section, another kind replaces the one below.

    A section with nothing in it (`sft:`, all of it commented out) sets nothing.
    """
    merged = dict(under)
    for key, value in over.items():
        below, inner = merged.get(key), _inner(section, key)
        if value is None and inner and type(None) not in get_args(section.model_fields[key].annotation):
            continue
        other_kind = (
            isinstance(value, dict) and isinstance(below, dict) and value.get(KIND, below.get(KIND)) != below.get(KIND)
        )
        if isinstance(value, dict) and isinstance(below, dict) and inner and not (other_kind and len(inner) > 1):
            merged[key] = merge(inner[0], below, value)
        else:
            merged[key] = value
    return merged


def resolve(section: type[S], layers: Sequence[Layer], *, base: S | None = None) -> S:
    """Defaults (or `base`), then the layers in order, as one checked section. Raises ConfigError, a line a fault."""
    merged = (section() if base is None else base).model_dump()
    for layer in layers:
        merged = merge(section, merged, layer.values)
    try:
        return section.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(fault, section, merged, layers) for fault in error.errors())) from error


def leaves(section: type[Section], default: Section | None = None, prefix: str = "") -> Iterator[Leaf]:
    """Every setting of a section and of the sections in it, with the defaults as they stand here."""
    default = default if isinstance(default, section) else section()
    for (name, value), info in zip(default, section.model_fields.values(), strict=True):
        inner, key = _inner(section, name), f"{prefix}{name}"
        if not inner:
            yield Leaf(key, info.description or "", info.annotation, value)
        elif len(inner) == 1:
            yield from leaves(inner[0], value, f"{key}.")
        else:
            kinds = {str(one.model_fields[KIND].default): one for one in inner}
            yield Leaf(f"{key}.{KIND}", info.description or "", Literal[tuple(kinds)], dict(value)[KIND])
            yield from _of_kinds(kinds, value, key)


def _of_kinds(kinds: Mapping[str, type[Section]], value: Any, key: str) -> Iterator[Leaf]:
    """The settings of all kinds of a section; one that several have comes once, with what each says of it."""
    found: dict[str, list[tuple[str, Leaf]]] = {}
    for kind, one in kinds.items():
        for leaf in leaves(one, value, f"{key}."):
            if leaf.key != f"{key}.{KIND}":
                found.setdefault(leaf.key, []).append((kind, leaf))
    for same in found.values():
        said: dict[tuple[str, Any], list[str]] = {}
        for kind, leaf in same:
            said.setdefault((leaf.help, leaf.default), []).append(kind)
        first = same[0][1]
        if len(said) == 1:
            yield replace(first, help=f"{first.help} Only of kind {', '.join(kind for kind, _ in same)}.")
        else:
            parts = [f"{', '.join(of)}: {help} Default {default}." for (help, default), of in said.items()]
            yield replace(first, help=" ".join(parts), default="by kind")


def _inner(section: type[Section], name: str) -> list[type[Section]]:
    """The sections that a setting may hold; none for a plain setting."""
    return list(_sections(section.model_fields[name].annotation)) if name in section.model_fields else []


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """The sections that an annotation may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from _sections(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _sections(member)


def _explain(fault: ErrorDetails, section: type[Section], merged: Tree, layers: Sequence[Layer]) -> str:
    path = _path(fault["loc"], merged)
    key, where = ".".join(path), _where(path, layers)
    match fault["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key '{key}'; {_suggestion(path, section)}"
        case "value_error":
            return f"{where}: {f'in {key!r}: ' if key else ''}{fault['msg'].removeprefix('Value error, ')}"
        case "union_tag_invalid":
            found, kinds = fault["ctx"]["tag"], fault["ctx"]["expected_tags"].replace("'", "")
            near = difflib.get_close_matches(found, kinds.split(", "), n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            return f"{_where([*path, KIND], layers)}: '{key}.{KIND}' is {found!r}, expected one of {kinds}{hint}"
        case "model_type" | "model_attributes_type":
            expected = "a section, with settings of its own below it"
        case _:
            expected = fault["msg"].removeprefix("Input should be ").split(", unable to parse")[0]
    return f"{where}: '{key}' is {fault['input']!r}, expected {expected}"


def _suggestion(path: Sequence[str], section: type[Section]) -> str:
    """The nearest key at the same place, or else anywhere, or else all that are known there."""
    known = [leaf.key.split(".") for leaf in leaves(section)]
    above, depth = list(path[:-1]), len(path)
    if list(path) in known:
        return f"it is a setting of another kind than this one: set '{'.'.join([*above, KIND])}' too"
    here = sorted({".".join(k[:depth]) for k in known if len(k) >= depth and k[: depth - 1] == above})
    anywhere = [".".join(k) for k in known]
    names = {key.rsplit(".", 1)[-1]: key for key in here}
    near = [names[name] for name in difflib.get_close_matches(path[-1], names, n=1)]
    near = near or [key for key in anywhere if key.endswith(f".{path[-1]}")][:1]
    return f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(here)}"


def _path(loc: tuple[int | str, ...], merged: Tree) -> list[str]:
    """The keys to a fault, without the names of union members that pydantic puts between them."""
    path: list[str] = []
    place: Any = merged
    for part in loc:
        if isinstance(place, dict) and part not in place and place.get(KIND) == part:
            continue
        path.append(str(part))
        place = _at(place, [str(part)])
    return path


def _where(path: Sequence[str], layers: Sequence[Layer]) -> str:
    """Where the value at this path was set: the flag, the file, both for a section, or the defaults."""
    holding = [layer for layer in layers if _at(layer.values, path, ABSENT) is not ABSENT]
    if not holding:
        return "the defaults"
    last = holding[-1]
    if isinstance(_at(last.values, path), dict):
        return " and ".join("flags" if layer.source == FLAG else layer.source for layer in holding)
    setting = takewhile(lambda part: not part.isdecimal(), path)  # a flag gives a list as a whole
    return f"flag --{'.'.join(setting)}" if last.source == FLAG else last.source


def _at(tree: Any, path: Sequence[str], absent: Any = None) -> Any:
    """The value at a path, `absent` where there is none; a number is a place in a list."""
    for part in path:
        if isinstance(tree, dict) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list | tuple) and part.isdecimal() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return absent
    return tree


def from_flag(leaf: Leaf, text: Any) -> Any:
    """The value a flag's text stands for; pydantic turns it into the right type, or says why it can't.

    Raises ConfigError for a list that is not YAML.
    """
    if not isinstance(text, str):
        return text
    optional = type(None) in get_args(leaf.hint)
    if optional and text.lower() in ("none", "null"):
        return None
    if any(get_origin(t) in (list, tuple, dict) for t in (leaf.hint, *get_args(leaf.hint))):
        try:
            return yaml.safe_load(text if text.startswith(("[", "{")) else f"[{text}]")
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"flag --{leaf.key}: {text!r} is not a list in YAML, such as [a, b]: {error}") from error
    return text
