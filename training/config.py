"""Settings of a training run: YAML in, checked and frozen, the resolved file out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from mlff2d.errors import nearest
from mlff2d.files import write_text

from .checks import check_model, check_start, describe
from .sections import Config

S = TypeVar("S", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML, but that a key given twice is an error, and 1e-3 a number.

    YAML 1.1 takes 1e-3, a number without a point, for a word. Of a key given twice PyYAML keeps the
    last, so that a second section `train` would put the first out of force without a word.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping; raises ConstructorError for a key that it has twice."""
        first: dict[str, yaml.Mark] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in first:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} stands there twice, first in line "
                    f"{first[key.value].line + 1}; put what belongs to it together",
                    problem_mark=key.start_mark,
                )
            first[key.value] = key.start_mark
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789")
)


class ConfigError(ValueError):
    """A config that cannot be used; the message names file, key and remedy."""


# Settings that change where, how fast or how long a run goes, and not what comes out.
# Data files and the model started from may move: it is their content that is compared.
FREE = (
    "run_dir",
    "data.files",
    "data.in_memory",
    "data.workers",
    "model.from",
    "finetune.replay.files",
    "finetune.old",
    "finetune.scratch",
    "finetune.scratch_lr",
    "train.device",
    "train.threads",
    "train.compile",
    "train.max_jump",
    "train.max_minutes",
    "train.save_minutes",
    "train.log",
)


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file and apply overrides such as 'train.lr=1e-3'.

    Raises ConfigError for a file that is not readable YAML, an unknown key (naming the nearest), a
    missing one, a value of the wrong kind, or settings that make no model.
    """
    return make_config(read_yaml(path), path, overrides)


def read_yaml(path: Path) -> dict[str, Any]:
    """The tree of settings in a YAML file. Raises ConfigError where it is not one."""
    try:
        raw = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: the config cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid YAML ({text}).") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a config is a list of 'key: value' lines.")
    return raw


def make_config(raw: dict[str, Any], path: Path, overrides: Iterable[str] = ()) -> Config:
    """The config of a tree of settings, which overrides change in place; `path` is for messages.

    Raises ConfigError as `load_config` does.
    """
    for override in overrides:
        apply_override(raw, override)
    config = validated(raw, Config, path)
    try:
        if config.model.start is None:
            check_model(str(config.model.name), config.model.settings())
            return config
        zbl = check_start(config.model.start, config.property is not None)
    except ValueError as error:
        raise ConfigError(f"{path}: model: {str(error).removesuffix('.')}.") from error
    return _with_priors_of_start(config, zbl, raw, path)


def validated(raw: dict[str, Any], section: type[S], path: Path, at: str = "") -> S:
    """The section that a tree of settings gives; `path` and `at`, its place, are for messages.

    Raises ConfigError for an unknown key (naming the nearest) and for the first wrong value.
    """
    _refuse_unknown(raw, section, path, at)
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = at + ".".join(str(part) for part in first["loc"])
        problem = describe(first).removesuffix(".")
        raise ConfigError(f"{path}: {key + ': ' if key else ''}{problem}.") from error


def _with_priors_of_start(
    config: Config, zbl: bool | None, raw: dict[str, Any], path: Path
) -> Config:
    """The config with the ZBL of the model that training starts from, where that is a potential."""
    if zbl is None or config.priors.zbl == zbl:
        return config
    if "zbl" in (raw.get("priors") or {}):
        raise ConfigError(
            f"{path}: priors.zbl is {config.priors.zbl}, but {config.model.start} was trained "
            f"{'with' if zbl else 'without'} it; leave it out."
        )
    return config.model_copy(update={"priors": config.priors.model_copy(update={"zbl": zbl})})


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one dotted key in place, its value read as YAML. Raises ConfigError without an '='."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write it as key=value, e.g. train.lr=1e-3.")
    *sections, last = key.strip().split(".")
    target = raw
    for section in sections:
        if target.get(section) is None:
            target[section] = {}
        target = target[section]
        if not isinstance(target, dict):
            raise ConfigError(f"--set {override}: {section} is a value and has no keys.")
    target[last] = _parse_value(value)


def _parse_value(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set ...={text}: not a valid YAML value.") from error


def _refuse_unknown(
    raw: dict[str, Any], section: type[BaseModel], path: Path, at: str = ""
) -> None:
    if section.model_config.get("extra") == "allow":
        return
    for key, value in raw.items():
        if key not in section.model_fields:
            hint = nearest(str(key), section.model_fields)
            raise ConfigError(f"{path}: unknown key {at + str(key)!r}.{hint}")
        kind: Any = section.model_fields[key].annotation
        if isinstance(kind, UnionType):  # a section that may be left out
            if value is None:
                continue
            kind = get_args(kind)[0]
        if _is_section(kind):
            if not isinstance(value, dict):
                raise ConfigError(f"{path}: {at}{key} is a section and needs keys below it.")
            _refuse_unknown(value, kind, path, f"{at}{key}.")
        if get_origin(kind) is tuple and _is_section(get_args(kind)[0]):
            for place, one in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(one, dict):
                    _refuse_unknown(one, get_args(kind)[0], path, f"{at}{key}.{place}.")


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def save_config(config: Config, path: Path) -> None:
    """Write the resolved config as YAML."""
    write_text(yaml.safe_dump(config.resolved(), sort_keys=False, allow_unicode=True), path)


def differences(old: dict[str, Any], new: dict[str, Any], free: Iterable[str] = FREE) -> list[str]:
    """Settings that differ and would change the result, as 'key: old -> new'; not those `free`."""
    flat_old, flat_new = _flatten(old), _flatten(new)
    found = []
    for key in sorted(flat_old.keys() | flat_new.keys()):
        before, after = flat_old.get(key), flat_new.get(key)
        if before != after and key not in free:
            found.append(f"{key}: {before} -> {after}")
    return found


def _flatten(tree: dict[str, Any], at: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{at}{key}.")
        else:
            flat[at + key] = value
    return flat
