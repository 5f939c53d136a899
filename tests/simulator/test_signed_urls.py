"""Signed URLs live until their time is up."""

import pytest

from soundpiece_async.simulator.signed_urls import Signer, parse_signed_url

ORIGIN = "http://127.0.0.1:9"


class TestSigner:
    """Signed URLs live until their time is up."""

    @pytest.mark.parametrize("stable", [True, False])
    def test_signs(self, *, stable: bool) -> None:
        """A URL works until it expires; another signature, path or time does not."""
        signer = Signer(secret=b"s", lifetime=60.0, origin=ORIGIN, stable=stable)
        link = signer.sign("abc", wall=100.0)

        assert link.expires_at == 160.0
        assert signer.owns(link.url)
        signed_url = parse_signed_url(link.url)
        assert signed_url.name == "abc"
        assert signer.allows(signed_url, wall=159.9)
        assert not signer.allows(signed_url, wall=160.0)
        for altered in (
            link.url.replace("abc", "abd"),
            link.url.replace("160000", "960000"),
            link.url[:-1] + "!",
            link.url.partition("?")[0],
        ):
            assert not signer.allows(parse_signed_url(altered), wall=101.0)

    def test_changes_paths(self) -> None:
        """Unstable paths differ with every signing, and still name the track."""
        signer = Signer(secret=b"s", lifetime=60.0, origin=ORIGIN, stable=False)
        one, two = (parse_signed_url(signer.sign("abc", wall=1.0).url) for _ in range(2))

        assert one.path != two.path
        assert one.name == two.name == "abc"

    def test_revokes(self) -> None:
        """After `revoke` old URLs are dead and new ones live."""
        signer = Signer(secret=b"s", lifetime=60.0, origin=ORIGIN)
        old = parse_signed_url(signer.sign("abc", wall=1.0).url)
        signer.revoke()

        assert not signer.allows(old, wall=2.0)
        assert signer.allows(parse_signed_url(signer.sign("abc", wall=1.0).url), wall=2.0)

    def test_owns_its_origin_only(self) -> None:
        """A host that merely begins like ours is foreign."""
        assert not Signer(secret=b"s", lifetime=1.0, origin=ORIGIN).owns(f"{ORIGIN}9/audio/x.flac")
