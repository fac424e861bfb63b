"""How a recipe is read from YAML with overrides, and written back."""

import dataclasses
import difflib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ValidationError

from anywidth.errors import RecipeError
from anywidth.recipe.detection import DetectionRecipe
from anywidth.recipe.schema import BRANCHES, Recipe, Section

Schema = TypeVar("Schema", bound=Section)
Keys = tuple[str | int, ...]
_log = logging.getLogger(__name__)


def is_detection(path: Path) -> bool:
    """Whether a file is a recipe of a detector: it has a section `detector`.

    Raises:
        RecipeError, OSError: as `load`.
    """
    return "detector" in _read(path)[0]


def load_detection(path: Path, overrides: Sequence[str] = ()) -> DetectionRecipe:
    """`load` for a recipe of a detector."""
    return _load(DetectionRecipe, path, overrides)


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: YAML file.
        overrides: "key=value" with dotted keys; values are parsed as YAML.

    Raises:
        RecipeError: for a file that is not YAML, a key that does not exist or stands twice, or a value of a
            wrong type or range, with the file and line, the key, the value and what was expected.
        OSError: if the file cannot be read.
    """
    return _load(Recipe, path, overrides)


def _load(schema: type[Schema], path: Path, overrides: Sequence[str]) -> Schema:
    values, sources = _read(path)
    _rename_old_keys_(values, sources)
    for override in overrides:
        _override_(values, sources, override)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise RecipeError(_describe(schema, error, path, sources)) from None


_OLD_KEYS: dict[Keys, tuple[str, str]] = {("widths", "rule"): ("widths", "policy")}
"""Section and key of the version before -> what they are called now; understood until the next version."""


def _rename_old_keys_(values: dict[str, Any], sources: dict[Keys, str]) -> None:
    """Read keys of the version before under their new names, with a line that says so.

    Raises:
        RecipeError: both names stand there.
    """
    for old_keys, (new_section, new) in _OLD_KEYS.items():
        section, old = map(str, old_keys)
        keys = values.get(section)
        if not isinstance(keys, dict) or old not in keys:
            continue
        source = sources.pop((section, old), "the recipe")
        if new in values.get(new_section, {}):
            raise RecipeError(
                f"{source}: {section}.{old} is the old name of {new_section}.{new}, which is set too; leave one of them out"
            )
        values.setdefault(new_section, {})[new] = keys.pop(old)
        sources[new_section, new] = source
        _log.warning("%s: %s.%s is called %s.%s now", source, section, old, new_section, new)


def dump(recipe: Section) -> str:
    """The recipe as YAML with every default written out; `load` reads it back."""
    values = recipe.model_dump()  # not as JSON, where labels that are numbers become text
    return yaml.safe_dump(values, sort_keys=False)


def differences(old: Section, new: Section) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old value, new value) wherever two recipes differ."""
    # {"train": {"epochs": 10, "options": {}}} -> {"train.epochs": 10, "train.options": {}}.
    before, after = (_flat(recipe.model_dump(mode="json")) for recipe in (old, new))
    keys = [*before, *(key for key in after if key not in before)]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _read(path: Path) -> tuple[dict[str, Any], dict[Keys, str]]:
    """The values, and for each key where it was written."""
    try:
        text = path.read_text(encoding="utf-8")
        sources: dict[Keys, str] = {}
        # YAML keeps the last of two equal keys silently, and values have no line numbers: so the nodes are walked too.
        _locate_(yaml.compose(text, Loader=yaml.SafeLoader), (), path, sources)
        values = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not a text file ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        location = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise RecipeError(f"{location}: is not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected `key: value` lines, got {type(values).__name__}")
    return values, sources


def _locate_(node: yaml.Node | None, keys: Keys, path: Path, sources: dict[Keys, str]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            full_key = (*keys, key.value)
            location = f"{path}, line {key.start_mark.line + 1}"
            if full_key in sources:
                raise RecipeError(
                    f"{location}: the key {_dotted(full_key)!r} stands twice, first in {sources[full_key]}"
                )
            sources[full_key] = location
            _locate_(value, full_key, path, sources)


def _override_(values: dict[str, Any], sources: dict[Keys, str], override: str) -> None:
    key, equals, text = override.partition("=")
    keys = tuple(key.split("."))
    if not equals or not all(keys):
        raise RecipeError(f"override {override!r}: expected key=value, for example train.epochs=10")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or error
        raise RecipeError(f"override {override!r}: the value is not YAML: {problem}") from None
    if (new_keys := _OLD_KEYS.get(keys)) is not None:
        _log.warning("override %r: %s is called %s now", override, key, ".".join(new_keys))
        keys = new_keys
    # "train.epochs=10" sets values["train"]["epochs"], and makes the section if the file has none.
    section = values
    for name in keys[:-1]:
        if section.get(name) is None:  # left out, or written as `gate: null`
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            raise RecipeError(f"override {override!r}: {name!r} is a value, not a section")
    section[keys[-1]] = value
    sources[keys] = f"override {override!r}"


def _describe(schema: type[Section], error: ValidationError, path: Path, sources: dict[Keys, str]) -> str:
    details = sorted(
        error.errors(), key=lambda d: d["type"] == "missing"
    )  # a misspelt key is missing under its own name
    detail = details[0]
    keys = tuple(detail["loc"])
    # An error at ("train", "milestones", 1) is reported at the longest prefix that was written: ("train", "milestones").
    location = next((sources[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in sources), str(path))
    suffix = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{location}: {_problem(schema, detail, keys)}{suffix}"


def _problem(schema: type[Section], detail: Any, keys: Keys) -> str:
    key, message = _dotted(keys), str(detail["msg"])
    match detail["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"unknown key {key!r}; {_nearest(schema, key)}"
        case "missing":
            return f"the key {key!r} is missing"
        case "value_error":
            return f"{key}: {detail['ctx']['error']}" if key else str(detail["ctx"]["error"])
    expected = message.removeprefix("Input should be ")
    return f"{key} = {detail['input']!r}: expected {expected}"


def _dotted(keys: Keys) -> str:
    return ".".join(str(key) for key in keys if key not in BRANCHES)


def _nearest(schema: type[Section], key: str) -> str:
    section, _, name = key.rpartition(".")
    known = _known_keys(schema)
    # First keys of the same section, then the same name elsewhere: "train.bacth_size" may be "data.batch_size".
    siblings = [candidate for candidate in known if candidate.rpartition(".")[0] == section]
    for candidates in (siblings, known):
        by_name = {candidate.rpartition(".")[2]: candidate for candidate in reversed(candidates)}
        if matches := difflib.get_close_matches(name, by_name, n=1):
            return f"did you mean {by_name[matches[0]]!r}?"
    return f"known here: {', '.join(siblings)}"


def _fields(schema: Any) -> dict[str, Any]:
    """Name -> type of every key."""
    if dataclasses.is_dataclass(schema):
        # Annotations of modules with `from __future__ import annotations` are text.
        hints = get_type_hints(schema)
        return {field.name: hints[field.name] for field in dataclasses.fields(schema)}
    return {name: field.annotation for name, field in schema.model_fields.items()}


def _known_keys(schema: Any, prefix: str = "") -> list[str]:
    known = []
    for name, field_type in _fields(schema).items():
        # `GateSection | None` is searched as `GateSection`.
        known.append(prefix + name)
        field_type = next(
            (
                argument
                for argument in get_args(field_type)
                if isinstance(argument, type) and issubclass(argument, Section)
            ),
            field_type,
        )
        if dataclasses.is_dataclass(field_type) or (
            isinstance(field_type, type) and issubclass(field_type, BaseModel)
        ):
            known += _known_keys(field_type, f"{prefix}{name}.")
    return known
