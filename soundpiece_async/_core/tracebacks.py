"""Errors without the frames that handled a secret: error reporters send every local of every frame they find."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound=BaseException)
C = TypeVar("C", bound=type)


def forget_frames(error: E) -> E:
    """Return an error, with its causes and contexts, as if none of them had been raised yet."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            if isinstance(one.__cause__ or one.__context__, UnicodeError):  # its repr is the whole text
                one.__cause__ = one.__context__ = None
            pending += [one.__cause__, one.__context__]
    return error


def forget_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Make what a function raises seem to come from its call: no frame holds its arguments, or what became of them."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised
            failure = forget_frames(error)
        del args, kwargs
        raise failure

    return call


def forget_members(kind: C) -> C:
    """Do the same for the constructor of a class."""
    kind.__init__ = forget_arguments(kind.__init__)  # type: ignore[misc]  # of the class itself, before it is used
    return kind
