"""Convert a frozen dataclass of options to and from command-line flags and JSON.

The field `learning_rate` becomes the flag --learning-rate. A flag that is not given is absent from the namespace, so
that a command can tell given values from defaults.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, asdict, field, fields
from typing import Any, TypeVar

Options = TypeVar("Options")


def option(convert: Callable[[str], Any], help: str, default: Any = MISSING, **more: Any) -> Any:
    """A dataclass field with its argparse type (`bool` makes --flag and --no-flag), help and further flag arguments.

    group="TITLE" starts a group of flags in the help, which lasts until the next field that starts one.
    only_with=(NAME, VALUE): the flag applies only if the field NAME has this value; see `check_combinations`.
    """
    return field(default=default, metadata={"type": convert, "help": help, **more})


class Size(argparse.Action):
    """An argparse action: one number for a square, or height and width. Stores (height, width)."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _: Any) -> None:
        if len(values) > 2:
            raise argparse.ArgumentError(self, f"takes one or two numbers, not {len(values)}")
        setattr(namespace, self.dest, (values[0], values[-1]))


class Several(argparse.Action):
    """An argparse action: stores the values as a tuple."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _: Any) -> None:
        setattr(namespace, self.dest, tuple(values))


def add_options(
    parser: argparse._ActionsContainer,
    kind: type,
    defaults: Mapping[str, Any] | None = None,
    names: Collection[str] | None = None,
) -> None:
    """Add the flags of a dataclass, or only those of the fields in `names`.

    parser: if it is a group, all flags are in it.
    defaults: values to show in the help instead of the fields' own defaults.
    """
    title = None
    for item in fields(kind):
        more = dict(item.metadata)
        title = more.pop("group", title)
        more.pop("only_with", None)
        if names is not None and item.name not in names:
            continue
        group = group_of(parser, title) if title and isinstance(parser, argparse.ArgumentParser) else parser
        default = (defaults or {}).get(item.name, item.default)
        text = more.pop("help") + ("" if default in (None, MISSING) else f" (default: {shown(default)})")
        convert = more.pop("type")
        if convert is bool:
            more["action"] = argparse.BooleanOptionalAction
        else:
            more["type"] = convert
            if "choices" not in more:
                more.setdefault("metavar", "N")
        group.add_argument(f"--{item.name.replace('_', '-')}", default=argparse.SUPPRESS, help=text, **more)


def group_of(parser: argparse.ArgumentParser, title: str) -> argparse._ArgumentGroup:
    """The parser's group of that title, which is new if there is none."""
    known = {group.title: group for group in parser._action_groups}
    return known.get(title) or parser.add_argument_group(title)


def shown(default: Any) -> str:
    """A default as the help writes it."""
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default)


def given_options(arguments: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The values of the fields whose flags were given."""
    return {item.name: getattr(arguments, item.name) for item in fields(kind) if hasattr(arguments, item.name)}


def check_combinations(options: Any, given: Collection[str]) -> None:
    """Raise ValueError for a flag that does nothing.  given: the names of the fields whose flags were given."""
    for item in fields(options):
        name, value = item.metadata.get("only_with", (None, None))
        if item.name in given and name is not None and getattr(options, name) != value:
            flag, other = (f"--{each.replace('_', '-')}" for each in (item.name, name))
            raise ValueError(f"{flag} applies to {other} {value} only")


def to_json(options: Any) -> dict[str, Any]:
    """The options as JSON values, with tuples as lists. Inverse of `from_json`."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options).items()}


def from_json(kind: type[Options], values: Mapping[str, Any]) -> Options:
    """Options from JSON or a checkpoint. Raises ValueError that names unknown, missing or invalid settings."""
    known = {item.name: item for item in fields(kind)}
    unknown = sorted(set(values) - set(known))
    missing = sorted(name for name, item in known.items() if item.default is MISSING and name not in values)
    if unknown or missing:
        raise ValueError(f"{'unknown' if unknown else 'missing'} settings: {', '.join(unknown or missing)}")
    return kind(**{name: checked(known[name], value) for name, value in values.items()})


def checked(item: Field, value: Any) -> Any:
    """Return the value if the flag could have produced it; raise ValueError otherwise."""
    convert = item.metadata["type"]
    try:
        if isinstance(value, list) and "tuple" in str(item.type):
            return tuple(value)
        if value is None or isinstance(value, bool | int | float | str):
            allowed = value == item.default or (bool(value) if convert is bool else convert(str(value))) == value
        else:
            allowed = isinstance(value, dict) and "dict" in str(item.type)
        if not allowed or (value is not None and value not in item.metadata.get("choices", [value])):
            raise ValueError(f"invalid value {value!r}")
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"setting {item.name}: {error}") from None
    return value
