"""An extension of griffe for the reference, which is generated without importing anything.

Griffe knows the fields of dataclasses and not those of attrs. Here a class gets an ``__init__`` from its
fields, those of its bases included; private and excluded ones left out. And `docs/api.md#heading` in a docstring
becomes a link.
"""

import ast
import re
from typing import Any

import griffe

_MAKERS = {"frozen", "define", "attrs.frozen", "attrs.define"}


class AttrsSignatures(griffe.Extension):
    """Adds an ``__init__`` to every attrs class."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Link the headings of `docs/api.md` that a docstring cites; every page of the reference is in a folder."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"docs/api\.md#([\w-]+)", r'<a href="../api.html#\1">API: \1</a>', obj.docstring.value
            )

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Go through the modules once all are there, because a base may stand in another one."""
        for module in (pkg, *_walk(pkg)):
            for thing in tuple(module.members.values()):
                if (
                    not thing.is_alias
                    and thing.is_class
                    and _options(thing) is not None
                    and "__init__" not in thing.members
                ):
                    thing.set_member("__init__", _make_init(thing))


def _walk(module: griffe.Module) -> Any:
    for inner in module.modules.values():
        if not inner.is_alias:
            yield inner
            yield from _walk(inner)


def _options(kind: griffe.Class) -> dict[str, str] | None:
    """Return the arguments of the decorator, or None for a class that is not an attrs class."""
    for decorator in kind.decorators:
        if decorator.callable_path in _MAKERS:
            call = ast.parse(str(decorator.value), mode="eval").body
            return {word.arg: ast.unparse(word.value) for word in getattr(call, "keywords", ()) if word.arg}
    return None


def _make_init(kind: griffe.Class) -> griffe.Function:
    """Build it from the fields of a class, then those it inherits, which all are keyword-only here."""
    fields: dict[str, griffe.Parameter] = {}
    for owner in (kind, *(base for base in kind.mro() if _options(base) is not None)):
        kw_only = (_options(owner) or {}).get("kw_only") == "True"
        for member in owner.members.values():
            parameter = None if member.is_alias or not member.is_attribute else _read_field(member, kw_only=kw_only)
            if parameter is not None:
                fields.setdefault(parameter.name, parameter)
    order = sorted(fields.values(), key=lambda parameter: parameter.kind is griffe.ParameterKind.keyword_only)
    me = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
    return griffe.Function("__init__", parameters=griffe.Parameters(me, *order), parent=kind)


def _read_field(attribute: griffe.Attribute, *, kw_only: bool) -> griffe.Parameter | None:
    """Read ``name: type = default`` or ``name: type = attrs.field(...)``."""
    is_field = attribute.annotation is not None and "instance-attribute" in attribute.labels
    if not is_field or attribute.name.startswith("_"):
        return None
    default: Any = attribute.value
    if default is not None and str(default).startswith("attrs.field("):
        call = ast.parse(str(default), mode="eval").body
        words = {word.arg: word.value for word in getattr(call, "keywords", ())}
        kw_only = kw_only or ("kw_only" in words and ast.unparse(words["kw_only"]) == "True")
        if "init" in words:
            return None
        made = words.get("factory")
        default = ast.unparse(words["default"]) if "default" in words else None
        default = _call(made) if made is not None else default
        default = "..." if str(default).startswith("attrs.Factory(") else default  # depends on other fields
    constant = attribute.module.members.get(str(default))
    if constant is not None and not constant.is_alias and constant.is_attribute:  # such as BASE_URL: show its value
        default = constant.value
    return griffe.Parameter(
        attribute.name,
        annotation=attribute.annotation,
        kind=griffe.ParameterKind.keyword_only if kw_only else griffe.ParameterKind.positional_or_keyword,
        default=default,
    )


def _call(made: ast.expr) -> str:
    """Write the default value of a factory."""
    name = ast.unparse(made)
    return {"_generate_key": "uuid4()", "dict": "{}"}.get(name, f"{name}()")
