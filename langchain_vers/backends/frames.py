"""What container engines send over an attached stream, taken apart. Pure.

Two layers. The engine's frames: eight bytes (the stream's number, three zeros, the length as a big-endian u32), then so many bytes of that
stream (Docker Engine API, "Stream format" of `POST /containers/{id}/attach`; Podman sends the same). And inside each stream an
end mark, which a loop of ours prints when everything before it has been printed: the engine tells the end of a stream only some 12 ms
(Docker) or 35 ms (Podman) after it, and cannot tell an end from a broken connection.
"""

from __future__ import annotations

from langchain_vers.errors import Unreachable

_HEADER = 8
_STDOUT, _STDERR, _ENGINE = 1, 2, 3


class Frames:
    """Takes the bytes of a stream as they arrive, cut anywhere, and gives them back by stream: 1 is stdout, 2 is stderr."""

    def __init__(self) -> None:
        self._header = b""
        self._kind = 0
        self._left = 0

    @property
    def whole(self) -> bool:
        """Whether the last frame has arrived to its end."""
        return self._left == 0 and not self._header

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The next bytes of each stream, in order; a frame's beginning is given before its end has arrived.

        Raises:
            Unreachable: these are no frames.
        """
        found = []
        view = memoryview(data)
        while view:
            if self._left == 0:
                missing = _HEADER - len(self._header)
                self._header += view[:missing]
                view = view[missing:]
                if len(self._header) == _HEADER:
                    self._begin()
                continue
            found.append((self._kind, bytes(view[: self._left])))
            taken = len(found[-1][1])
            self._left -= taken
            view = view[taken:]
        return found

    def _begin(self) -> None:
        kind, zeros = self._header[0], self._header[1:4]
        if kind > _ENGINE or any(zeros):
            raise Unreachable(
                f"the container engine sent {self._header!r} where the frame of a stream was to begin; is this a Docker or Podman API?"
            )
        self._kind = _STDOUT if kind == _STDOUT else _STDERR  # what the engine itself has to say comes as a message
        self._left = int.from_bytes(self._header[4:])
        self._header = b""


def end_marks(mark: str) -> str:
    """The shell command that prints a session's end mark on both of its streams. `mark` is a shell word that stands for its mark."""
    one = f"printf '\\377\\000end %s\\n' {mark}"
    return f"{one}; {one} >&2"


class EndMark:
    """Finds the end mark in a stream whose bytes are passed on. `mark` is the session's, which no other session has."""

    def __init__(self, mark: str) -> None:
        # Its first byte stands nowhere else in it, so that no output before it can be taken for a part of it; and is no part of UTF-8, so
        # that hardly any output ends like the mark's beginning and has to be held back.
        self._mark = b"\xff\x00end " + mark.encode() + b"\n"
        self.held = b""
        """The last bytes, which may be its beginning."""
        self.found = False

    def feed(self, data: bytes) -> bytes:
        """What may be passed on of these bytes; nothing any more once the mark was found."""
        if self.found:
            return b""
        data = self.held + data
        before, mark, _ = data.partition(self._mark)
        if mark:
            self.found, self.held = True, b""
            return before
        kept = next((size for size in range(min(len(self._mark) - 1, len(data)), 0, -1) if data.endswith(self._mark[:size])), 0)
        self.held = data[len(data) - kept :]
        return data[: len(data) - kept]

    def release(self) -> bytes:
        """The bytes that were held back, when they turn out to be no mark's beginning."""
        held, self.held = self.held, b""
        return held
