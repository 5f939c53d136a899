"""Refuses outputs from private hosts: applies the rules of ``_core.hosts``."""

import errno
import socket
from typing import Any
from urllib.parse import urlsplit

from soundpiece_async._core import hosts
from soundpiece_async._core.hosts import OutputRefused
from soundpiece_async._core.settings import Settings

ADVICE = "; Settings(allow_private_outputs=True) allows it"


class OutputGuard:
    """Refuses URLs and addresses that no output may come from (``_core.hosts``).

    The URL is checked before it is used, and the address just before connecting, so that a name cannot resolve to
    another address in between. Behind a proxy, the proxy resolves names.
    """

    def __init__(self, settings: Settings) -> None:
        api = urlsplit(settings.base_url)
        self._lifted = settings.allow_private_outputs
        self._secure = api.scheme == "https" and not self._lifted
        self._local = self._lifted or hosts.find_scope(api.hostname or "") is not None
        self._proxied = settings.proxy is not None

    def __repr__(self) -> str:
        return f"<OutputGuard secure={self._secure} local={self._local}>"

    def check(self, url: str, what: str) -> None:
        """Raise ``OutputRefused`` if a URL leads to a host that is not allowed."""
        if objection := hosts.find_objection(url, secure=self._secure, local=self._local):
            advice = "" if hosts.find_objection(url, secure=False, local=True) else ADVICE
            raise OutputRefused(f"{what}: refused: {objection}{advice}")

    def open_to_api(self, address: tuple[Any, ...]) -> socket.socket:
        """Return the socket of a connection to the API; if that is on this machine, outputs may be, too."""
        if not self._proxied and hosts.find_scope(str(address[4][0])):
            self._local = True
        return _make_socket(address)

    def open_to_output(self, address: tuple[Any, ...]) -> socket.socket:
        """Return the socket of a connection to an output host.

        Raises:
            RefusedAddressError: the address is not allowed.
        """
        scope = None if self._local or self._proxied else hosts.find_scope(str(address[4][0]))
        if scope is not None:
            raise RefusedAddressError(errno.EACCES, f"its host is {scope}{ADVICE}")
        return _make_socket(address)


class RefusedAddressError(OSError):
    """The address is not allowed; an OSError, so that the next address of the name is tried."""


def _make_socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, _ = address
    return socket.socket(family, kind, protocol)
