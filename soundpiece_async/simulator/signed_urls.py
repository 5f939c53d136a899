"""Signed URLs of the output host: signed, checked, expired (docs/api.md#downloads)."""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import attrs


@attrs.frozen
class IssuedUrl:
    """One signed URL; `expires_at` is the wall clock's seconds since 1970."""

    url: str
    expires_at: float


@attrs.frozen(kw_only=True)
class SignedUrl:
    """A parsed URL of the output host: the path, the track it names, and the claims of its query."""

    path: str
    name: str
    claims: Mapping[str, str]


@attrs.define(eq=False, kw_only=True)
class Signer:
    """Signs paths of the output host for `lifetime` real seconds; `origin` is that host.

    `revoke` kills every URL made so far. `stable` decides whether a track keeps its path from one signing to the next:
    that it does is inferred from the examples (docs/api.md#downloads), so clients are tested against both.
    """

    secret: bytes = attrs.field(repr=False)
    lifetime: float
    origin: str = ""
    stable: bool = True
    generation: int = 0
    made: int = 0

    def sign(self, name: str, *, wall: float) -> IssuedUrl:
        """Return a URL of a track that is valid from now, `wall`, for the lifetime."""
        self.made += 1
        expires = int((wall + self.lifetime) * 1000)
        path = f"/audio/{name}.flac" if self.stable else f"/audio/{self.made:08x}/{name}.flac"
        signature = self._signature(path, str(expires))
        query = f"expires={expires}&signature={signature}"
        return IssuedUrl(f"{self.origin}{path}?{query}", expires / 1000)

    def allows(self, signed_url: SignedUrl, *, wall: float) -> bool:
        """Return whether a URL was signed here, is unaltered and has not expired."""
        expires = signed_url.claims.get("expires", "")
        genuine = hmac.compare_digest(
            signed_url.claims.get("signature", "").encode(), self._signature(signed_url.path, expires).encode()
        )
        return genuine and wall * 1000 < int(expires)

    def revoke(self) -> None:
        """Expire every URL signed so far."""
        self.generation += 1

    def owns(self, url: str) -> bool:
        """Return whether a URL points to the output host."""
        return url.startswith(f"{self.origin}/")

    def _signature(self, path: str, expires: str) -> str:
        message = f"{path}\n{expires}\n{self.generation}".encode()
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()[:32]


def parse_signed_url(url: str) -> SignedUrl:
    """Read a URL of the output host, absolute or from its path on."""
    parts = urlsplit(url)
    return SignedUrl(path=parts.path, name=track_name(parts.path), claims=dict(parse_qsl(parts.query)))


def track_name(path: str) -> str:
    """Return the name of the track in a path, stable or not."""
    return path.rpartition("/")[2].removesuffix(".flac")


def write_time(wall: float) -> str:
    """Format a time as the API does: RFC 3339 in UTC, here to the millisecond."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
