"""Validators of the arguments: each ValueError names the argument, the expectation and the value."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from soundpiece_async.simulator.schema import ROUTES

if TYPE_CHECKING:
    import attrs

    Attribute: TypeAlias = attrs.Attribute[Any]

Validator = Callable[[Any, "Attribute", Any], None]
Predicate = Callable[[Any], bool]
Rule = tuple[str, Predicate]
"""What a value must be, in words and as code."""


def must_be(what: str, fits: Predicate) -> Validator:
    """Make a validator of a rule."""

    def check(_: object, attribute: "Attribute", value: object) -> None:
        require((what, fits), attribute.name, value)

    return check


def require(rule: Rule, name: str, value: object) -> None:
    """Raise the ValueError of an argument that does not fit; what cannot even be compared does not."""
    what, fits = rule
    try:
        good = fits(value)
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise ValueError(f"{name!r} must be {what}: {value!r}")


def integer_rule(least: int, most: float = math.inf) -> Rule:
    """Make the rule of a whole number."""
    what = f"a whole number, at least {least}" if most == math.inf else f"a whole number from {least} to {most}"
    return what, lambda value: isinstance(value, int) and least <= value <= most


def one_of(*known: object) -> Rule:
    """Make the rule of a choice."""
    return f"one of {', '.join(map(str, known))}", known.__contains__


def _is_span(value: tuple[float, float]) -> bool:
    shortest, longest = value
    return 0 < shortest <= longest < math.inf


def _is_origin(value: str) -> bool:
    parts = urlsplit(value)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.path in ("", "/") and not parts.query


FINITE = must_be("a finite number", math.isfinite)
POSITIVE = must_be("a number above 0", lambda value: value > 0)
POSITIVE_FINITE = must_be("a finite number above 0", lambda value: value > 0 and math.isfinite(value))
SECONDS: Rule = ("a finite number of seconds, at least 0", lambda value: 0 <= value < math.inf)
SHARE = must_be("a share from 0 to 1", lambda value: 0 <= value <= 1)
COUNT = must_be(*integer_rule(1))
SIZE = must_be(*integer_rule(0))
PORT = must_be(*integer_rule(0, 65535))
ERROR_STATUS = must_be(*integer_rule(400, 599))
BURST = must_be("a number, at least 1", lambda value: value >= 1)
TEXT = must_be("text that is not empty", lambda value: isinstance(value, str) and value != "")
SPAN = must_be("two numbers of seconds above 0, the smaller one first", _is_span)
ORIGIN = must_be("an http(s) URL of a host, without a path", _is_origin)
CALLABLE = must_be("callable", callable)
NOT_EMPTY = must_be("at least one", lambda value: len(value) > 0)


def check_duration(route: str, seconds: float) -> float:
    """Check a processing time in seconds; NaN could not be ordered among other times."""
    rule = "seconds, at least 0 (math.inf: for ever)", lambda value: value >= 0
    require(rule, f"durations of {route}", seconds)
    return seconds


def check_durations(_: object, attribute: "Attribute", value: object) -> None:
    """Processing times: none, those of some routes, or a callable, whose answers are checked when it is asked."""
    if isinstance(value, Mapping):
        for route, seconds in value.items():
            require(one_of(*ROUTES), f"a route in {attribute.name}", route)
            check_duration(route, seconds)
    else:
        rule = "a mapping, a callable or None", lambda given: given is None or callable(given)
        require(rule, attribute.name, value)
