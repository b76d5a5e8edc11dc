"""The errors of the package: one tree, told apart by what the caller can do about them.

    VersError
      BadInput           (ValueError)         the request makes no sense; nothing was done
      Denied             (PermissionError)    a key, a policy or a file mode forbids it
      Gone               (LookupError)        the machine, commit or tag does not exist (any more)
      Missing            (FileNotFoundError)  a path does not exist
      WrongKind          (OSError)            a directory where a file is wanted, or the other way round
      Conflict                                something changed in between, or is in use
        TakenOver                             another process works on the machine now
        Misplaced                             a path leads elsewhere than the call was judged by
      Unreachable        (ConnectionError)    no answer, a broken connection, an identity that does not match
        Interrupted                           the connection broke while a command ran
      CommandFailed                           a command that was to succeed did not
      DeadlineExceeded   (TimeoutError)       a wait of ours ran out
      RateLimited                             the server wants us to slow down
      ServerFault                             the server failed (5xx)
        Unsupported      (NotImplementedError) the server or backend cannot do this at all
      DiskFull           (OSError)            no room left where the data should go

Every message is one sentence for a person or a model: what happened, to what, what to do. Keys and other secrets never appear in one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_vers._process import keep_classes

if TYPE_CHECKING:
    from langchain_vers.machine import CommandResult


class VersError(Exception):
    """Root of all errors raised on purpose by this package.

    Attributes:
        status: HTTP status, when a server's answer caused the error, else None.
        machine_id: the machine that the failed operation was meant for, else None.
    """

    def __init__(self, message: str, *, status: int | None = None, machine_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.machine_id = machine_id

    def __str__(self) -> str:
        # OSError subclasses would otherwise print their own idea of the arguments.
        return self.message


class BadInput(VersError, ValueError):
    """The request makes no sense; nothing was done."""


class Denied(VersError, PermissionError):
    """A key, a policy or a file mode forbids it."""


class Gone(VersError, LookupError):
    """The machine, commit, tag or other named thing does not exist (any more)."""


class Missing(VersError, FileNotFoundError):
    """A path does not exist."""


class WrongKind(VersError, OSError):
    """A directory where a file is wanted, or the other way round."""


class Conflict(VersError):
    """Something changed in between, or is in use by somebody else."""


class TakenOver(Conflict):
    """Another process has taken over the machine; nothing was done on it."""


class Misplaced(Conflict):
    """A path leads elsewhere on the machine than the call was judged by; nothing was done."""


class Unreachable(VersError, ConnectionError):
    """No answer, a broken connection, or a peer whose identity does not match.

    Attributes:
        unsent: whether it is certain that nothing has reached the other side.
    """

    unsent = False


class Interrupted(Unreachable):
    """The connection broke while a command ran: it may have run in part.

    Attributes:
        output: what the command had printed until then.
    """

    def __init__(self, message: str, *, output: bytes = b"", machine_id: str | None = None) -> None:
        super().__init__(message, machine_id=machine_id)
        self.output = output


class CommandFailed(VersError):
    """A command that was to succeed did not.

    Attributes:
        result: how it ended.
    """

    def __init__(self, message: str, result: CommandResult, *, machine_id: str | None = None) -> None:
        super().__init__(message, machine_id=machine_id)
        self.result = result


class DeadlineExceeded(VersError, TimeoutError):
    """A wait of this package ran out (not a command's own time limit: that is a result, see `ExecResult`)."""


class RateLimited(VersError):
    """The server wants us to slow down, and still did after the retries.

    Attributes:
        retry_after: seconds that the server asked for, else None.
    """

    def __init__(self, message: str, *, status: int | None = 429, retry_after: float | None = None) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class ServerFault(VersError):
    """The server failed (HTTP 5xx), and still did after the retries where it was safe to repeat."""


class Unsupported(ServerFault, NotImplementedError):
    """The server or backend cannot do this at all."""


class DiskFull(VersError, OSError):
    """No room left where the data should go; the old content is whole."""


# Who holds a machine from before a reload catches what it raises after it, and the other way round.
keep_classes(globals())
