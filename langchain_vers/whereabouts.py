"""Where each thread is, as a call finds it.

Three sources, in this order: what a program has said since (`attach`, `detach`); the checkpoint that the call belongs to, where a
`VersSaver` keeps it; and without one, the last tool message before the call, which outlives restarts and goes back in time with the
conversation, or what this process remembers of the thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from langchain_vers.attachment import HERE, Attachment
from langchain_vers.turns import Place
from langchain_vers.versions import Versions

Default = Callable[[], Awaitable[Attachment]]


class Whereabouts:
    """The attachments of all threads. Used on the I/O thread.

    `default` tells where threads begin, `is_default` whether a place is that: such threads need no entry, and there may be very many.
    """

    def __init__(self, default: Default, is_default: Callable[[Attachment], bool]) -> None:
        self._default = default
        self._is_default = is_default
        self._remembered: dict[str | None, Attachment] = {}
        self._calls: dict[str | None, str | None] = {}
        """The last call of each holder that taught something; what was remembered before it is older than a conversation that knows it."""
        self._told: dict[str | None, Attachment] = {}
        """What a program has said, until the next call of the thread takes it into the conversation."""

    def tell(self, holder: str | None, attachment: Attachment) -> None:
        """A program moves a thread: from its next call on, it is there."""
        self._told[holder] = attachment
        self._remember(holder, attachment, None)

    def take_back(self, holder: str | None, attachment: Attachment) -> None:
        """What a program has said of a thread is no longer so: its conversation says by itself that it is there."""
        self._told.pop(holder, None)
        self._remember(holder, attachment, None)

    def forget(self, holder: str | None) -> None:
        """Nobody will come for what is known of a lane, or of a thread that is over."""
        for known in (self._told, self._remembered, self._calls):
            known.pop(holder, None)

    def is_told(self, holder: str | None) -> bool:
        """Whether a program has moved a thread, and none of its calls has been there yet."""
        return holder in self._told

    def remembered(self, holder: str | None) -> Attachment | None:
        """Where a thread was last, None if it never was anywhere else than where threads begin."""
        return self._remembered.get(holder)

    def known(self, holder: str | None) -> Attachment | None:
        """Where a thread was last, None if that would have to be found out."""
        return self._remembered.get(holder) or (HERE if self._is_default(HERE) else None)

    async def last(self, holder: str | None) -> Attachment:
        """Where a thread was last."""
        if (found := self._remembered.get(holder)) is not None:
            return found
        beginning = await self._default()
        if holder not in self._remembered:
            self._remember(holder, beginning, None)
        return self._remembered.get(holder, beginning)

    def holders(self, machine_id: str) -> list[str | None]:
        """Who was last on a machine."""
        return [holder for holder, attachment in self._remembered.items() if attachment.machine_id == machine_id]

    async def at(self, place: Place, versions: Versions | None) -> Attachment:
        """Where a call finds its thread; the order of the calls of one message is not looked at here."""
        if versions is None:
            told = self._told.pop(place.holder, None)
            if place.recalled is not None:
                call, attachment = place.recalled
                taught_by = self._calls.get(place.holder)
                if told is not None:
                    self._calls[place.holder] = call  # what was said since is newer, for all calls of the message
                elif taught_by != call and taught_by not in place.siblings and taught_by not in place.since:
                    self._remember(place.holder, attachment, call)
            return await self.last(place.holder)
        assert place.position is not None
        await versions.known(place.position)
        if (told := self._told.pop(place.holder, None)) is not None:
            try:
                await versions.begin_at(place.position, told)
            except BaseException:  # it could not be stored: the next call is to begin there all the same
                self._told.setdefault(place.holder, told)
                raise
        found = versions.ledger.place(place.position)
        if found is None:
            found = await (self._default() if not place.lane else self.last(place.holder))
            if not self._is_default(found):
                versions.ledger.note(place.position, found)
        self._remember(place.holder, found, place.call_id)
        return found

    def glance(self, place: Place, versions: Versions | None) -> Attachment | None:
        """Where a call would find its thread, without taking note of anything; None if that is where threads begin, or not made yet."""
        told = self._told.get(place.holder)
        if told is not None:
            return told
        found = self.remembered(place.holder)
        if versions is not None and place.position is not None:
            return versions.ledger.place(place.position) or (found if place.lane else None)
        if place.recalled is not None and self._calls.get(place.holder) not in {place.recalled[0], *place.since}:
            return place.recalled[1]
        return found

    def begins(self, place: Place, versions: Versions | None) -> bool:
        """Whether a thread is still where threads begin."""
        if versions is not None and place.position is not None:
            return versions.ledger.place(place.position) is None
        return place.holder not in self._remembered

    def move(self, place: Place, versions: Versions | None, attachment: Attachment) -> None:
        """A call moves its thread."""
        self._remember(place.holder, attachment, place.call_id)
        if versions is not None and place.position is not None:
            versions.ledger.move(place.position, attachment)

    def lose(self, place: Place, versions: Versions | None, attachment: Attachment) -> None:
        """A call has deleted its thread's machine."""
        self._remember(place.holder, attachment, place.call_id)
        if versions is not None and place.position is not None:
            versions.ledger.lose(place.position, attachment)

    def enter(self, place: Place, versions: Versions | None, attachment: Attachment) -> None:
        """A worker begins on a machine of its own."""
        self._remember(place.holder, attachment, place.call_id)
        if versions is not None and place.position is not None:
            versions.ledger.note(place.position, attachment)

    def learn(self, place: Place, versions: Versions | None, route: Attachment, **facts: str | None) -> None:
        """A call has taught more about the machine that its thread is on; nothing if the thread has left it meanwhile."""
        current = versions.ledger.place(place.position) if versions is not None and place.position is not None else None
        current = current or self._remembered.get(place.holder, HERE)
        if current.same_machine(route):
            learnt = current.moved(**facts)
            self._remember(place.holder, learnt, place.call_id)
            if versions is not None and place.position is not None:
                versions.ledger.note(place.position, learnt)

    def _remember(self, holder: str | None, attachment: Attachment, call: str | None) -> None:
        if not self._is_default(attachment):
            self._remembered[holder] = attachment
            self._calls[holder] = call
        elif self._remembered.pop(holder, None) is not None or holder in self._calls:
            self._calls[holder] = call  # it has come back: what the conversation says of before is no longer so
