"""What every test needs: the asyncio backend, with the event loop's own checks switched on."""

import pytest


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Asyncio only, in debug mode: a slow callback or a forgotten await is then a warning, and a warning an error."""
    return "asyncio", {"debug": True}
