"""`langchain-vers doctor`: the checks, each with the remedy of what fails."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from langchain_vers import _io
from langchain_vers.commands.target import find_target, open_client
from langchain_vers.embedded.engine import EngineError
from langchain_vers.embedded.server import INSTALL_HINT, load_engine
from langchain_vers.errors import VersError
from langchain_vers.platform.client import VersClient
from langchain_vers.platform.tunnel import SSHConnection


@dataclass(frozen=True)
class Check:
    """One line of `doctor`. `ok` None: there was nothing to check."""

    name: str
    ok: bool | None
    text: str


async def examine(data_dir: Path | None, engine: str, *, embedded: bool) -> list[Check]:
    """All checks, those of the Vers that is in use first; a check whose ground is missing is not made."""
    checks: list[Check] = []
    try:
        target = await asyncio.to_thread(find_target, data_dir, embedded=embedded)
    except VersError as error:
        checks.append(Check("key", False, str(error)))
    else:
        checks.append(Check("key", True, target.found))
        try:
            async with open_client(target) as client:
                machines = await client.list_vms()
                checks.append(Check("API", True, f"{target.endpoints.base_url} answers, {len(machines)} VMs"))
                running = next((vm for vm in machines if vm.state == "running"), None)
                if running is None:
                    checks.append(Check("SSH", None, "not checked: there is no running VM; create one and ask again"))
                else:
                    checks.extend(await _examine_ssh(client, running.vm_id))
        except VersError as error:
            checks.append(Check("API", False, str(error)))
    checks.append(await _examine_engine(data_dir, engine))
    return checks


async def _examine_ssh(client: VersClient, vm_id: str) -> list[Check]:
    """TLS to a VM's address, and a login inside it."""
    name = f"{vm_id}.vm.vers.sh"
    host, port = client.endpoints.ssh_endpoint or (name, 443)
    checks: list[Check] = []
    try:
        context = await asyncio.to_thread(client.endpoints.ssl_context)
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port, ssl=context, server_hostname=name), 10)
        writer.transport.abort()
        checks.append(Check("TLS", True, f"{host}:{port} speaks for {name}"))
        key = await client.get_ssh_key(vm_id)

        async def login() -> str:
            connection = await SSHConnection.open(
                host, port, server_name=name, context=context, private_key=key.ssh_private_key, timeout=15
            )
            await connection.close()
            return connection.fingerprint

        checks.append(Check("SSH", True, f"logged in, host key {await _io.on_io(login())}"))
    except ssl.SSLCertVerificationError as error:
        checks.append(Check("TLS", False, f"the certificate of {host}:{port} is not trusted ({error.verify_message}); check VERS_CA_FILE."))
    except (OSError, TimeoutError, VersError) as error:
        what = "SSH" if checks else "TLS"
        remedy = "" if isinstance(error, VersError) else "; check VERS_SSH_ENDPOINT and firewalls."
        checks.append(Check(what, False, f"{host}:{port}: {str(error) or type(error).__name__}{remedy}"))
    return checks


async def _examine_engine(data_dir: Path | None, name: str) -> Check:
    """Whether machines can be made on this computer."""
    try:
        with tempfile.TemporaryDirectory(prefix="langchain-vers-") as folder:
            engine = load_engine(name, Path(folder))
            problems = await engine.check()
    except ImportError as error:
        return Check("engine", False, f"{INSTALL_HINT} ({error.name} is missing).")
    except (VersError, EngineError, OSError) as error:
        return Check("engine", False, str(error))
    if problems:
        return Check("engine", False, " ".join(problems))
    return Check("engine", True, f"{engine.name}: {engine.isolation}")
