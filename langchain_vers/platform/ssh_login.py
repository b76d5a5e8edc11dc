"""Logging in by public key, as OpenSSH's client does: keys of the agent, then files, until the machine takes one. Called in a thread."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from paramiko.agent import AgentSSH

from langchain_vers.errors import Denied

_AGENT_SECONDS = 30.0
"""How long an agent may take: it may have to ask somebody."""


@dataclass(frozen=True)
class Keys:
    """What to log in with.

    Attributes:
        user: who.
        files: private keys, or public ones whose private half the agent has.
        agent: the agent's socket, None for no agent.
        only: whether keys of the agent that belong to none of the files are left out.
        named: whether somebody has named the files, so that a missing one is worth a word.
    """

    user: str
    files: Sequence[str] = ()
    agent: str | None = None
    only: bool = False
    named: bool = False


class _Agent(AgentSSH):
    """An agent by its socket, whose silence ends."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(_AGENT_SECONDS)
            self._socket.connect(path)
            self._connect(self._socket)  # type: ignore[attr-defined]  # the way in that paramiko's own Agent takes
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()


def log_in(transport: paramiko.Transport, keys: Keys, name: str) -> None:
    """Try one key after the other. `name` is the machine's, for errors.

    Raises:
        Denied: the machine took none of them. The message says which were tried, and why others could not be.
    """
    problems: list[str] = []
    tried: list[str] = []
    with _agent_keys(keys, problems) as held:
        for label, key in _candidates(keys, held, problems):
            tried.append(label)
            try:
                further = transport.auth_publickey(keys.user, key)
            except paramiko.BadAuthenticationType as error:
                raise Denied(
                    f"{name} takes no keys from {keys.user}, only {', '.join(error.allowed_types)}; allow public keys on it"
                ) from error
            except paramiko.AuthenticationException:
                continue
            except (paramiko.SSHException, EOFError, OSError) as error:
                if isinstance(error, OSError | EOFError) or not transport.is_active():
                    raise Denied(
                        f"{name} hung up after {_listed(tried)}; servers take few attempts: name the right key with `key`, or with "
                        "IdentityFile and IdentitiesOnly in the SSH configuration"
                    ) from error
                problems.append(f"{label} could not be used ({error})")
                continue
            if further:
                raise Denied(f"{name} wants more than a key of {keys.user} ({', '.join(further)}), which cannot be given here")
            return
    why = "".join(f"; {problem}" for problem in problems)
    raise Denied(
        f"{name} refused the login of {keys.user}: tried {_listed(tried)}{why}; add a key that it knows to the agent or name its file"
    )


def _listed(tried: Sequence[str]) -> str:
    return ", ".join(tried) or "no key, as there is none"


@contextlib.contextmanager
def _agent_keys(keys: Keys, problems: list[str]) -> Iterator[list[tuple[str, paramiko.PKey]]]:
    agent = None
    if keys.agent:
        try:
            agent = _Agent(keys.agent)
        except (OSError, paramiko.SSHException) as error:
            problems.append(f"the agent at {keys.agent} does not answer ({error})")
    try:
        yield [] if agent is None else [(f"the agent's {key.get_name()} key", key) for key in agent.get_keys()]
    finally:
        if agent is not None:
            agent.close()


def _candidates(keys: Keys, held: Sequence[tuple[str, paramiko.PKey]], problems: list[str]) -> Iterator[tuple[str, paramiko.PKey]]:
    """In OpenSSH's order: keys of the agent that belong to a file, the agent's others, the files."""
    public = {blob: file for file in keys.files if (blob := _public_part(file)) is not None}
    own = [(f"{public[key.asbytes()]} (by the agent)", key) for _, key in held if key.asbytes() in public]
    yield from own
    if not keys.only:
        yield from ((label, key) for label, key in held if key.asbytes() not in public)
    done = {public[key.asbytes()] for _, key in own}
    for file in keys.files:
        if file not in done and not file.endswith(".pub") and (key := _load(file, keys.named, problems)) is not None:
            yield file, key


def _public_part(file: str) -> bytes | None:
    """The public key that lies beside a private one, or is named itself."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path(file if file.endswith(".pub") else f"{file}.pub").read_text(encoding="ascii")
        return base64.b64decode(text.split()[1], validate=True)
    return None


def _load(file: str, named: bool, problems: list[str]) -> paramiko.PKey | None:
    """A private key, or None and why not."""
    try:
        status = Path(file).stat()
        # As `ssh`: a key that others can read is none.
        if status.st_uid == os.getuid() and status.st_mode & 0o077:
            problems.append(f"{file} can be read by others and is not used: chmod 600 it")
            return None
        return paramiko.PKey.from_path(file)
    except FileNotFoundError:
        if named:
            problems.append(f"{file} does not exist")
    except (paramiko.PasswordRequiredException, TypeError):
        problems.append(f"{file} is encrypted: ssh-add it to the agent")
    except OSError as error:
        problems.append(f"{file} cannot be read ({error.strerror or error})")
    except (paramiko.SSHException, UnsupportedAlgorithm, ValueError, UnicodeError):
        # What they say may quote the file.
        problems.append(f"{file} is no private key of a kind that is supported")
    return None
