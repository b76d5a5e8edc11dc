"""The Docker SDK's connections over a Unix socket, without the sockets that it leaves open when it cannot connect them.

Imports the SDK, so that it is imported itself only when an engine is used.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnection, UnixHTTPConnectionPool


class _Connection(UnixHTTPConnection):
    def connect(self) -> None:
        with contextlib.ExitStack() as opened:
            sock = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.settimeout(self.timeout)
            sock.connect(self.unix_socket)
            opened.pop_all()
        self.sock = sock


class _Pool(UnixHTTPConnectionPool):
    def _new_conn(self) -> Any:  # noqa: ANN401  # urllib3's types know no connection without an address
        timeout: Any = self.timeout
        return _Connection(self.base_url, self.socket_path, timeout)


class SocketAdapter(UnixHTTPAdapter):
    """What `requests` sends by. As the SDK's own, but for the above."""

    def get_connection(self, url: Any, proxies: Any = None) -> _Pool:  # noqa: ANN401  # as the parent's
        """See the parent class."""
        with self.pools.lock:
            pool: _Pool | None = self.pools.get(url)
            if pool is None:
                pool = self.pools[url] = _Pool(url, self.socket_path, self.timeout, maxsize=self.max_pool_size)
            return pool
