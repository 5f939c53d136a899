"""Where a service may name an operation beside the body of its answer to a PUT: in a link, or in a header.

Rules:

1. A link names an operation if it is the GET of that operation's route, with the id in its query.
2. ``Location``, ``Content-Location`` and the like are about the operation: an id in the query, whatever the path, or
   else the last part of the path that has a digit and is no version. Their link is only read, never followed.
3. So are headers that are named like an id, such as ``X-Operation-Id``; the id of an HTTP request is none.
4. A redirect may lead anywhere, as to a login. It names an operation only by a link to the GET of the route, by an id
   of the usual form, or by one below a collection of operations, such as ``/jobs/17``.
"""

import re
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

from soundpiece_async._core import fields

ID_NAMES = frozenset({"operationid", "opid", "jobid", "taskid"})
"""Names of members and headers that hold the id of an operation, without case and punctuation."""

USUAL_ID = re.compile(r"op_[0-9a-z]{26}")
"""The documented form of an id."""

_COLLECTIONS = frozenset({"operations", "operation", "jobs", "job", "tasks", "task", "generations"})
_VERSION = re.compile(r"v\d+(\.\d+)*", re.IGNORECASE)


def find_in_headers(headers: Mapping[str, str]) -> str | None:
    """Return the id of the operation that the headers of an answer to a PUT name, or None.

    Args:
        headers: names in lower case.
    """
    return next(_list_ids(headers), None)


def find_in_redirect(headers: Mapping[str, str], *, route: str) -> str | None:
    """Return the id of the operation that the ``Location`` of a redirect names, or None (rule 4).

    Args:
        headers: names in lower case.
        route: the route of the PUT.
    """
    path, query = _split(headers.get("location", ""))
    parts = [unquote(part) for part in path.split("/") if part]
    if parts and parts[-1] in (route, *_COLLECTIONS):
        return _read_query(query)
    last, collection = (["", "", *parts])[:-3:-1]
    known = _read_query(query) or fields.read_id(last)
    named = collection == route or collection.casefold() in _COLLECTIONS
    return known if named or (known is not None and USUAL_ID.fullmatch(known)) else None


def find_in_link(text: str, *, route: str) -> str | None:
    """Return the id of the operation that a link names, or None (rule 1)."""
    if f"/{route}?" not in text:
        return None
    path, query = _split(text)
    return _read_query(query) if path.endswith(f"/{route}") else None


def fold(name: str) -> str:
    """Return a name without case and punctuation."""
    return "".join(character for character in name.casefold() if character.isalnum())


def _list_ids(headers: Mapping[str, str]) -> Iterator[str]:
    for name, text in headers.items():
        identity = fields.read_id(text) if fold(name.removeprefix("x-")) in ID_NAMES else None
        if name.endswith("location"):
            path, query = _split(text)
            identity = _read_query(query) or _read_path(path)
        if identity is not None:
            yield identity


def _read_query(query: str) -> str | None:
    found = (fields.read_id(text) for name, text in parse_qsl(query) if fold(name) in ID_NAMES | {"id"})
    return next((identity for identity in found if identity is not None), None)


def _read_path(path: str) -> str | None:
    parts = (unquote(part) for part in reversed(path.split("/")))
    last = next((part for part in parts if re.search(r"\d", part) and not _VERSION.fullmatch(part)), "")
    return fields.read_id(last)


def _split(link: str) -> tuple[str, str]:
    try:
        parts = urlsplit(link.strip())
    except ValueError:
        return "", ""
    return parts.path, parts.query
