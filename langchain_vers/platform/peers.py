"""Whom an SSH connection must reach, how that is checked, and what its failures are called. `tunnel.py` makes the connection."""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import paramiko

from langchain_vers.errors import BadInput, DeadlineExceeded, Denied, Unreachable


def fingerprint(key: paramiko.PKey) -> str:
    """A host key's fingerprint as `ssh-keygen -l` prints it: "SHA256:" and unpadded base64."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


@dataclass(frozen=True)
class Peer:
    """Whom a connection must reach, and how this side shows who it is.

    Attributes:
        name: what errors call the machine.
        check: raises `Unreachable` unless the host key is the machine's. Called in a thread, before anything is sent to log in.
        log_in: logs in. Called in a thread.
        way: where the wire leads, if that is not the machine's own name.
        key_types: kinds of host keys to ask the machine for first.
        advice: what to do when it does not answer, for errors.
        denied: what to do when it refuses the login, for errors.
    """

    name: str
    check: Callable[[paramiko.PKey], None]
    log_in: Callable[[paramiko.Transport], None]
    way: str | None = None
    key_types: Sequence[str] = ()
    advice: str = "check that the machine runs (vers_vms) and that the network is up"
    denied: str = "attach to the machine again to fetch its present key"


@asynccontextmanager
async def translated(peer: Peer, *, opening: bool = False) -> AsyncIterator[None]:
    """Foreign errors of a connection become ours."""
    where = f"{peer.name} (by way of {peer.way})" if opening and peer.way is not None else peer.name
    try:
        yield
    except (Unreachable, Denied, BadInput):
        raise
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(
            f"the TLS certificate of {where} was refused ({error.verify_message}); "
            "if it is signed by an authority of your own, set VERS_CA_FILE"
        ) from error
    except ssl.SSLError as error:
        raise Unreachable(
            f"the TLS connection to {where} failed ({error.reason or str(error) or type(error).__name__}); "
            "check that the machine exists and runs"
        ) from error
    except paramiko.AuthenticationException as error:
        raise Denied(f"{where} refused the machine's SSH key; {peer.denied}") from error
    except TimeoutError as error:
        raise DeadlineExceeded(f"{where} did not answer in time; {peer.advice}") from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise Unreachable(f"the SSH connection to {where} failed ({str(error) or type(error).__name__}); {peer.advice}") from error
