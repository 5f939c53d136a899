"""The way of one piece of a bulk run: submit, wait, download."""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

import attrs

from soundpiece_async._core.models import Operation
from soundpiece_async._core.requests import Request
from soundpiece_async._core.results import Failed, SavedFile, Succeeded
from soundpiece_async._core.titles import Titles
from soundpiece_async._download.destinations import Destination

R = TypeVar("R", bound=Request)


@attrs.frozen(kw_only=True)
class Brakes:
    """What stops the other pieces of a run once the account has refused one; each raises that refusal.

    Attributes:
        sending: before a PUT leaves.
        asking: before anything else is asked of the API: an empty account may still do that.
    """

    sending: Callable[[], None]
    asking: Callable[[], None]


class Work(Protocol[R]):
    """Takes one piece all the way. ``know`` is told its operation as soon as there is one."""

    async def __call__(
        self, request: R, *, brakes: Brakes, know: Callable[[Operation[R]], None]
    ) -> Succeeded[R] | Failed[R]: ...


@attrs.frozen(kw_only=True)
class Way(Generic[R]):
    """The stages, as the session does them.

    Attributes:
        submit: takes the request, ``check`` and ``sending``, as ``Submitter.submit`` does.
        wait: takes an operation, and gives the ready one.
        download: as ``Session.download``.
        save_to: the place for the files; None: they are not wanted.
        titles: names the files.
    """

    submit: Callable[..., Awaitable[Operation[R]]]
    wait: Callable[[Operation[R]], Awaitable[Operation[R]]]
    download: Callable[..., Awaitable[list[SavedFile]]]
    save_to: Destination | None
    titles: Titles = attrs.field(factory=Titles)

    async def run(
        self, request: R, *, brakes: Brakes, know: Callable[[Operation[R]], None]
    ) -> Succeeded[R] | Failed[R]:
        """Take a piece all the way."""
        brakes.sending()
        operation = await self.submit(request, check=brakes.sending)
        know(operation)
        final = await self.wait(operation)
        return Succeeded(request=request, operation=final, files=await self.save(final))

    async def save(
        self, operation: Operation[Any], *, title: str | None = None, overwrite: bool = False
    ) -> tuple[SavedFile, ...]:
        """Bring the files of a ready operation to where they are wanted, under a title that somebody gave them."""
        if self.save_to is None:
            return ()
        name = title or self.titles.give(operation, operation.id)
        return tuple(await self.download(operation, self.save_to, name=name, overwrite=overwrite))
