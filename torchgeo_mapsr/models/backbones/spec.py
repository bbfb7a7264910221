# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The text that names a backbone: ``timm:mobilenetv2_100?layers=0,1,2+rcf``."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import quote, unquote

from ...errors import InputError

T = TypeVar('T')


@dataclass(frozen=True)
class Member:
    """One backbone of a spec: ``kind[:name][?option=value&option=value…]``.

    Args:
        kind: What comes before the colon, e.g. ``timm``.
        name: What comes after it, e.g. a model's name; may be empty.
        options: Option names and values, as text.
    """

    kind: str
    name: str
    options: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one member.

        Args:
            text: The member, options as a URL's query (``%2B`` is a plus sign).

        Returns:
            The member.

        Raises:
            InputError: If an option is not of the form ``name=value``.
        """
        head, _, query = text.partition('?')
        kind, _, name = head.partition(':')
        options = {}
        for item in query.split('&') if query else []:
            key, equals, value = item.partition('=')
            if not key or not equals:
                raise InputError(
                    f'Backbone option {item!r} in {text!r} must have the form '
                    'name=value (several are joined by &)'
                )
            options[unquote(key)] = unquote(value)
        return cls(kind.strip(), unquote(name.strip()), options)

    def __str__(self) -> str:
        head = f'{self.kind}:{_quote(self.name)}' if self.name else self.kind
        query = '&'.join(f'{_quote(k)}={_quote(v)}' for k, v in self.options.items())
        return f'{head}?{query}' if query else head

    def with_option(self, name: str, value: str) -> Self:
        """The same member with one option set.

        Args:
            name: Name of the option.
            value: Its value, as text.

        Returns:
            A new member.
        """
        return replace(self, options={**self.options, name: value})

    def build(self, builder: Callable[..., T], *args: object) -> T:
        """Call a builder with this member's options as keyword arguments.

        Each option is converted by the annotation of the builder's keyword-only (or
        remaining) parameter of that name. A builder with ``**options`` takes any
        other option too: a number or a boolean where the text reads as one.

        Args:
            builder: A function or a class with annotated parameters.
            *args: Positional arguments that come first.

        Returns:
            What the builder returns.

        Raises:
            InputError: If an option is unknown or its text has not the right type.
        """
        parameters = list(inspect.signature(builder).parameters.values())[len(args) :]
        names = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        is_open = len(names) < len(parameters)
        is_class = isinstance(builder, type)
        hints = get_type_hints(vars(builder)['__init__'] if is_class else builder)
        values: dict[str, Any] = {}
        for key, text in self.options.items():
            if key in names:
                try:
                    values[key] = convert(text, hints[key])
                except ValueError as error:
                    raise InputError(
                        f'Option {key}={text} of {self.kind!r}: {error}'
                    ) from error
            elif is_open:
                values[key] = guess(text)
            else:
                options = ', '.join(sorted(names)) or 'none'
                raise InputError(
                    f'Unknown option {key!r} of {self.kind!r}'
                    f'{suggest(key, names)} (options: {options})'
                )
        return builder(*args, **values)


def parse_spec(spec: str) -> tuple[Member, ...]:
    """Read a whole spec.

    Args:
        spec: Members joined by ``+``.

    Returns:
        The members, in order.

    Raises:
        InputError: It is no text, or not that of a backbone.
    """
    if not isinstance(spec, str):
        raise InputError(
            f'A backbone is named by its spec, such as rcf, not {type(spec).__name__}'
        )
    return tuple(Member.parse(text.strip()) for text in spec.split('+'))


def is_asked_for(spec: str, fitted: str) -> bool:
    """Whether a fit has the backbone that a spec asks for.

    Args:
        spec: What is asked for.
        fitted: Spec of the fit's backbone, in which seeds are written out.
    """
    wanted, members = parse_spec(spec), parse_spec(fitted)
    if len(wanted) != len(members):
        return False
    return all(
        one in (other, replace(other, options=_without_seed(other)))
        for one, other in zip(wanted, members, strict=True)
    )


def _without_seed(member: Member) -> dict[str, str]:
    return {name: value for name, value in member.options.items() if name != 'seed'}


def map_option(spec: str, name: str, function: Callable[[str], str]) -> str:
    """Change an option of every member that has it.

    Args:
        spec: Members joined by ``+``.
        name: Name of the option.
        function: From its value to another one.

    Returns:
        The new spec; the same text if no value changes.
    """
    members = parse_spec(spec)
    changed = [
        member.with_option(name, function(member.options[name]))
        if name in member.options
        else member
        for member in members
    ]
    return spec if changed == list(members) else '+'.join(map(str, changed))


def suggest(name: str, names: set[str] | list[str]) -> str:
    """Name what was probably meant.

    Args:
        name: What was given.
        names: What there is.

    Returns:
        A clause for the end of a sentence; empty if nothing is near.
    """
    near = get_close_matches(name, names, n=3)
    return f': did you mean {" or ".join(near)}?' if near else ''


def convert(text: str, annotation: Any) -> Any:
    """Convert an option's text to the type of its parameter.

    Args:
        text: The text; the entries of a tuple are separated by commas.
        annotation: Int, float, bool, str, a tuple of these, or an optional one.

    Returns:
        The value.

    Raises:
        ValueError: If the text does not read as the type.
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        kinds = [kind for kind in inner if kind is not NoneType]
        if text.lower() == 'none' and len(kinds) < len(inner):
            return None
        return convert(text, kinds[0])
    if origin is tuple:
        return tuple(convert(part, inner[0]) for part in text.split(','))
    if annotation is bool:
        if text.lower() not in ('true', 'false', '1', '0'):
            raise ValueError('expected true or false')
        return text.lower() in ('true', '1')
    try:
        return annotation(text)
    except ValueError:
        raise ValueError(f'expected {annotation.__name__}') from None


def guess(text: str) -> bool | int | float | str:
    """Read text as the first of boolean, integer and number that it can be.

    Args:
        text: The text.

    Returns:
        The value, or the text itself.
    """
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _quote(text: str) -> str:
    """Escape what would end the text inside a spec."""
    return quote(text, safe='/:,.~@ \\')
