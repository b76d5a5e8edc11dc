"""Whom the client speaks as, and where: the API key and the addresses of the platform.

`Credentials` finds the key anew for each request, so that a rotated key is picked up without a restart. `Endpoints` holds the addresses.
Sending them is left to `platform.http`. No message of this module quotes a key, the content of a key file, or a URL that could hold one.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import ssl
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from langchain_vers.errors import BadInput, Denied

DEFAULT_BASE_URL = "https://api.vers.sh/api/v1"
"""Where the hosted platform's API is."""
API_PATH = "/api/v1"
"""What the path of every API's URL ends with; it is added where it is missing."""
LOOKED_UP = "the api_key argument, VERS_API_KEY, ~/.vers/keys.json and ~/.vers/config.json"
"""Where a key is looked for, in this order; words for messages."""

_FILES = ("keys.json", "config.json")

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?\Z")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class ResolvedKey:
    """An API key and where it was found.

    Attributes:
        value: the key.
        source: words for a message, such as "the environment variable VERS_API_KEY"; never the key.

    """

    value: SecretStr
    source: str


class Credentials:
    """Finds the API key: argument, then `VERS_API_KEY`, then `~/.vers/keys.json`, then `~/.vers/config.json`.

    An empty environment variable counts as not set; an empty entry in a file is an error, because somebody meant to put a key there.

    Args:
        api_key: the key, or a function without arguments that returns it (called for each request, maybe on another thread).
        environ: the environment to look in (default: the process's own, read anew each time).
        home: the folder that holds `.vers` (default: the user's home).

    """

    def __init__(
        self,
        api_key: str | SecretStr | Callable[[], str | SecretStr] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        home: Path | None = None,
    ) -> None:
        self._api_key = SecretStr(api_key) if isinstance(api_key, str) else api_key
        self._environ = environ
        self._home = home

    def resolve(self) -> ResolvedKey:
        """The key as it is now. May read files: not for an event loop's thread.

        Raises:
            Denied: there is no key, or a key file may not be read.
            BadInput: a key file is broken, or a key is empty or no single word of printable ASCII.

        """
        if self._api_key is not None:
            return _checked(self._api_key() if callable(self._api_key) else self._api_key, "the api_key argument")
        environ = os.environ if self._environ is None else self._environ
        if environ.get("VERS_API_KEY"):
            return _checked(environ["VERS_API_KEY"], "the environment variable VERS_API_KEY")
        folder = self._folder()
        if folder is not None:
            for name, lookup in zip(_FILES, (_from_keys, _from_config), strict=True):
                path = folder / name
                content = _read_json(path)
                found = None if content is None else lookup(content, path)
                if found is not None:
                    return _checked(found, str(path))
        msg = f"No Vers API key was found in {LOOKED_UP}; set VERS_API_KEY, or log in with the Vers command line."
        raise Denied(msg)

    def identity(self) -> Hashable:
        """Equal for credentials that find the same key from the same place; a key in it is hidden from whoever prints it."""
        if self._api_key is not None:
            return self._api_key if isinstance(self._api_key, Hashable) else id(self._api_key)
        environ, folder = os.environ if self._environ is None else self._environ, self._folder()
        files = () if folder is None else tuple(name for name in _FILES if os.access(folder / name, os.F_OK))  # never an error
        return None if self._environ is None else id(self._environ), SecretStr(environ.get("VERS_API_KEY") or ""), str(folder), files

    def _folder(self) -> Path | None:
        try:
            return (self._home or Path.home()) / ".vers"
        except RuntimeError:
            return None  # a user without a home has no key files

    def __repr__(self) -> str:
        return f"Credentials({'' if self._api_key is None else 'api_key=<hidden>'})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self._api_key is not None or self._environ is not None:
            msg = "Credentials that hold a key cannot be pickled; build them anew on the other side."
            raise TypeError(msg)
        return (_rebuild, (self._home,))


def _rebuild(home: Path | None) -> Credentials:
    return Credentials(home=home)


def _checked(value: object, source: str) -> ResolvedKey:
    """The key without surrounding blanks, if it can be sent in a header at all."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if not isinstance(value, str):
        msg = f"The Vers API key from {source} is not a string; put the key there as text."
        raise BadInput(msg)
    value = value.strip()
    if not value:
        msg = f"The Vers API key from {source} is empty; put a key there or remove the entry."
        raise BadInput(msg)
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        msg = f"The Vers API key from {source} holds blanks or characters that no key has; copy it again."
        raise BadInput(msg)
    return ResolvedKey(SecretStr(value), source)


def _read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None if there is no such file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        msg = f"{path} is not UTF-8 text; repair or remove it."
        raise BadInput(msg) from None
    except OSError as error:
        msg = f"{path} cannot be read ({error.strerror}); make it readable, or set VERS_API_KEY."
        raise Denied(msg) from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None  # the decoder's own error carries the whole text along
    if not isinstance(content, dict):
        msg = f"{path} does not hold a JSON object; repair or remove it."
        raise BadInput(msg)
    return content


def _from_keys(content: dict[str, Any], path: Path) -> object | None:
    keys = content.get("keys")
    if keys is None:
        return None
    if not isinstance(keys, dict):
        msg = f'The entry "keys" in {path} is not a JSON object; repair the file.'
        raise BadInput(msg)
    return keys.get("VERS_API_KEY")


def _from_config(content: dict[str, Any], path: Path) -> object | None:
    value: object | None = content.get("versApiKey")
    return content.get("api_key") if value is None else value


@dataclass(frozen=True)
class Endpoints:
    """The addresses of the platform.

    Attributes:
        base_url: the API's URL up to and with `/api/v1`, no slash at the end.
        ssh_endpoint: host and port that every VM's SSH is reached through, or None for `<vm_id>.vm.vers.sh:443`.
        ca_file: certificates (PEM) that are trusted besides the system's, or None.
        only_ca_file: whether no others are trusted.

    """

    base_url: str = DEFAULT_BASE_URL
    ssh_endpoint: tuple[str, int] | None = None
    ca_file: Path | None = None
    only_ca_file: bool = False

    @classmethod
    def resolve(
        cls,
        base_url: str | None = None,
        ssh_endpoint: str | None = None,
        ca_file: str | Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """Each address from its argument, else from `VERS_BASE_URL`, `VERS_SSH_ENDPOINT`, `VERS_CA_FILE`, else the default.

        Raises:
            BadInput: an address makes no sense.

        """
        environ = os.environ if environ is None else environ
        base_url = base_url if base_url is not None else environ.get("VERS_BASE_URL") or DEFAULT_BASE_URL
        ssh_endpoint = ssh_endpoint if ssh_endpoint is not None else environ.get("VERS_SSH_ENDPOINT") or None
        ca_file = ca_file if ca_file is not None else environ.get("VERS_CA_FILE") or None
        return cls(
            base_url=normalise_base_url(base_url),
            ssh_endpoint=None if ssh_endpoint is None else parse_ssh_endpoint(ssh_endpoint),
            ca_file=None if ca_file is None else parse_ca_file(ca_file),
        )

    @classmethod
    def of_embedded(cls, base_url: str, ssh_endpoint: tuple[str, int], ca_file: str) -> Self:
        """Those of an embedded Vers, whose certificates are of its own authority and of no other. `base_url`: with or without a path."""
        return cls(normalise_base_url(base_url), ssh_endpoint, Path(ca_file), only_ca_file=True)

    @property
    def is_loopback(self) -> bool:
        """Whether the API is on this machine."""
        return is_loopback(urlsplit(self.base_url).hostname or "")

    def ssl_context(self) -> ssl.SSLContext:
        """TLS with the certificate authorities that are trusted. Reads files: not for an event loop's thread.

        Raises:
            BadInput: `ca_file` cannot be read or holds no certificate.

        """
        if self.ca_file is None:
            return ssl.create_default_context()
        try:
            context = ssl.create_default_context(cafile=str(self.ca_file))
        except (ssl.SSLError, OSError) as error:
            reason = "it holds no valid PEM certificates" if isinstance(error, ssl.SSLError) else error.strerror
            msg = f"The certificate file {self.ca_file} cannot be used: {reason}; check VERS_CA_FILE."
            raise BadInput(msg) from error
        if not self.only_ca_file:
            context.load_default_certs()
        return context


def is_loopback(host: str) -> bool:
    """Whether a host name or IP address (no brackets) is this machine's own loopback."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def normalise_base_url(text: str) -> str:
    """`https://host[:port][/prefix]/api/v1` from a URL with or without `/api/v1` and slashes at the end.

    Raises:
        BadInput: not an http(s) URL, or with a user, a password, a query or a fragment, or plain http to another machine.
            The message does not quote the URL.

    """

    def bad(reason: str) -> BadInput:
        return BadInput(f"The Vers base URL (argument or VERS_BASE_URL) {reason}; give one like {DEFAULT_BASE_URL}.")

    text = text.strip()
    if re.search(r"[^\x21-\x7e]|[\\\"<>^`{|}%]", text):
        raise bad("holds characters that no such URL has")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise bad("is malformed") from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS or not text.lower().startswith(f"{scheme}://"):
        raise bad("must start with https://")
    if "@" in parts.netloc:
        raise bad("must not hold a user name or password")
    if "?" in text or "#" in text:
        raise bad("must not hold a query or a fragment")
    netloc_host = _bracketed(host)
    if netloc_host is None or port == 0:
        raise bad("has no valid host and port")
    if scheme == "http" and not is_loopback(host):
        raise bad("uses plain http to another machine, and the API key must not cross a network in clear")
    path = parts.path.rstrip("/")
    if any(segment in {"", ".", ".."} for segment in path.split("/")[1:]):
        raise bad("has an empty or dotted path segment")
    if not path.endswith(API_PATH):
        path += API_PATH
    port_text = "" if port in {None, _DEFAULT_PORTS[scheme]} else f":{port}"
    return f"{scheme}://{netloc_host}{port_text}{path}"


def parse_ssh_endpoint(text: str) -> tuple[str, int]:
    """Host and port from `host:port` or `[ipv6]:port`.

    Raises:
        BadInput: anything else.

    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]/@]+)):([0-9]{1,5})", text.strip(), re.ASCII)
    if match:
        host, port = match[1] or match[2], int(match[3])
        valid = _bracketed(host)
        if valid is not None and valid.startswith("[") == (match[1] is not None) and 0 < port <= 65535:
            return host.lower(), port
    msg = "The SSH endpoint (argument or VERS_SSH_ENDPOINT) must be host:port, with an IPv6 address in brackets: [::1]:2222."
    raise BadInput(msg)


def parse_ca_file(value: str | Path) -> Path:
    """The path of a certificate file, `~` expanded; whether it can be used shows when the first connection is made.

    Raises:
        BadInput: an empty path, one with a NUL, or a `~` that stands for nobody.

    """
    try:
        if not str(value).strip() or "\0" in str(value):
            raise ValueError
        return Path(value).expanduser()
    except (ValueError, RuntimeError):
        msg = "The certificate file (argument or VERS_CA_FILE) is not a usable path; give the path of a PEM file."
        raise BadInput(msg) from None


def _bracketed(host: str) -> str | None:
    """A host as it stands in a URL, lower case; None if it is neither a host name nor an address."""
    if ":" in host:
        try:
            return f"[{ipaddress.IPv6Address(host).compressed}]"
        except ValueError:
            return None
    return host.lower() if len(host) <= 253 and ".." not in host and _HOST.match(host) else None
