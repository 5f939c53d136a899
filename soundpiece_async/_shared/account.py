"""What a session shares with the other processes of its account, loaded only for a session that shares something."""

from soundpiece_async._core.settings import Settings
from soundpiece_async._core.shared_gate import SharedPace
from soundpiece_async._pacer import Pacer
from soundpiece_async._shared.link import Link
from soundpiece_async._shared.news import News
from soundpiece_async._shared.opening import open_store


class SharedAccount:
    """The rate limiter and the results that the processes of an account share through ``Settings(shared=…)``.

    Attributes:
        pace: of the gate.
        news: results to publish and to read.
    """

    def __init__(self, settings: Settings) -> None:
        self.pace: SharedPace = SharedPace(ceiling=settings.limits.requests_per_second)
        self.news: News = News(confirm=settings.confirm_webhooks)
        self._settings = settings

    def __repr__(self) -> str:
        return f"<SharedAccount {self.pace!r} {self.news!r}>"

    def link(self, pacer: Pacer) -> Link:
        """Return the connection to the store; nothing is opened."""
        return Link(open_store(self._settings), pace=self.pace, pacer=pacer, news=self.news)
