"""The command line: `langchain-vers demo | serve | stop | vms | doctor`.

Shows and starts; what it starts is elsewhere. Imports are made where they are needed, so that `--help` is quick.
"""

# ruff: noqa: PLC0415 - lazy imports are the point here
from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

try:
    import typer
except ImportError as missing:
    message = 'langchain-vers: the command line needs packages that are not installed; run: pip install "langchain-vers[embedded]"'
    raise SystemExit(message) from missing

if TYPE_CHECKING:
    from langchain_vers.platform.client import VersClient
    from langchain_vers.platform.credentials import Credentials, Endpoints

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A computer for LangChain agents: the Vers on this machine, and a look at any Vers.",
)
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder of the embedded Vers [default: ~/.local/state/langchain-vers].")]
EngineName = Annotated[str, typer.Option("--engine", help="namespaces (isolated machines) or process (not isolated).")]
Embedded = Annotated[bool, typer.Option("--embedded", help="Look at the Vers on this machine, whatever key is configured.")]


@app.command()
def demo(
    *,
    model: Annotated[str | None, typer.Option(metavar="PROVIDER:NAME", help="Let this model do the work instead of a script.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Folder of the embedded Vers to use, which stays [default: a temporary one].")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the machines and the server for a look.")] = False,
    vers: Annotated[bool, typer.Option("--vers", help="Use the configured Vers platform instead of an embedded one.")] = False,
) -> None:
    """Watch an agent work on a VM; needs no key. Exit status 1 if a step does not check out."""
    from langchain_vers.demo.options import DemoOptions, run

    raise typer.Exit(run(DemoOptions(model=model, data_dir=data_dir, keep=keep, vers=vers)))


@app.command()
def serve(
    *,
    data_dir: DataDir = None,
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the HTTP API; 0 is a free one.")] = 0,
    ssh_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of SSH over TLS; 0 is a free one.")] = 0,
    api_key: Annotated[
        str | None,
        typer.Option(help="The key that clients must send. Others can see it in the process list: prefer $VERS_EMBEDDED_API_KEY."),
    ] = None,
    engine: EngineName = "namespaces",
) -> None:
    """Run a Vers on this machine, in the foreground. Without a key given, one is made and kept in server.json."""
    from langchain_vers.embedded.server import Options, run
    from langchain_vers.embedded.state import default_data_dir

    folder = (data_dir or default_data_dir()).absolute()
    options = Options(data_dir=folder, host=host, port=port, ssh_port=ssh_port, engine=engine, api_key=api_key)
    raise typer.Exit(run(options))


@app.command()
def stop(*, data_dir: DataDir = None) -> None:
    """Stop the Vers on this machine. Its VMs' disks and its commits stay."""
    from langchain_vers.embedded import launcher
    from langchain_vers.errors import VersError

    try:
        stopped = launcher.stop(data_dir)
    except VersError as error:
        raise _failed(error) from error
    typer.echo("Stopped." if stopped else "No embedded Vers is running.")


@app.command()
def vms(*, embedded: Embedded = False, data_dir: DataDir = None) -> None:
    """List the VMs of the configured Vers: the platform, or without a key the Vers on this machine."""
    from rich.console import Console
    from rich.table import Table

    from langchain_vers.errors import VersError

    async def listed() -> None:
        async for client in _client(await asyncio.to_thread(_target, data_dir, embedded=embedded)):
            found = await client.list_vms()
            table = Table("VM", "State", "Age", "Labels", title=client.endpoints.base_url, title_justify="left")
            for vm in found:
                labels = " ".join(f"{name}={value}" for name, value in sorted(vm.labels.items()))
                table.add_row(vm.vm_id, str(vm.state), _age(vm.created_at), labels)
            Console().print(table)

    try:
        asyncio.run(listed())
    except VersError as error:
        raise _failed(error) from error


@dataclass(frozen=True)
class Check:
    """One line of `doctor`. `ok` None: there was nothing to check."""

    name: str
    ok: bool | None
    text: str


@app.command()
def doctor(*, embedded: Embedded = False, data_dir: DataDir = None, engine: EngineName = "namespaces") -> None:
    """Check the key, the API, TLS, SSH, and the engine of the Vers on this machine; exit status 1 if a check fails."""
    from rich.console import Console

    console = Console(highlight=False)
    failed = False
    checks = asyncio.run(_examine(data_dir, engine, embedded=embedded))
    for check in checks:
        failed = failed or check.ok is False
        mark = {True: "[green]ok[/]    ", False: "[red]failed[/]", None: "[yellow]-[/]     "}[check.ok]
        console.print(mark, check.name.ljust(7), end=" ")
        console.print(check.text, markup=False, soft_wrap=True)
    raise typer.Exit(1 if failed else 0)


def main() -> None:
    """Entry point of the `langchain-vers` command."""
    app(prog_name="langchain-vers")


def _failed(error: Exception) -> typer.Exit:
    typer.echo(f"langchain-vers: {error}", err=True)
    return typer.Exit(1)


def _age(created_at: datetime) -> str:
    """How long ago, in the largest unit that fits."""
    moment = created_at if created_at.tzinfo else created_at.replace(tzinfo=UTC)
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


@dataclass(frozen=True)
class Target:
    """Which Vers a command looks at, and how that was decided."""

    credentials: Credentials
    endpoints: Endpoints
    found: str


def _target(data_dir: Path | None, *, embedded: bool) -> Target:
    """The configured platform; else, or when asked for, the running embedded Vers. Raises `VersError`."""
    from langchain_vers.embedded.launcher import find_running
    from langchain_vers.errors import Denied, Unreachable
    from langchain_vers.platform.credentials import API_PATH, Credentials, Endpoints

    denied: Denied | None = None
    if not (embedded or data_dir):
        try:
            credentials = Credentials()
            found = credentials.resolve().source
            return Target(credentials, Endpoints.resolve(), f"from {found}")
        except Denied as error:
            denied = error
    running = find_running(data_dir)
    if running is None:
        if denied is not None:
            raise Denied(f"{denied} Nor is an embedded Vers running; start it with: langchain-vers serve") from denied
        raise Unreachable("No embedded Vers is running; start it with: langchain-vers serve")
    host, port = running.ssh_endpoint
    endpoints = Endpoints(base_url=f"{running.base_url}{API_PATH}", ssh_endpoint=(host, port), ca_file=Path(running.ca_file))
    return Target(Credentials(running.api_key), endpoints, f"from the embedded Vers (process {running.pid}, engine {running.engine})")


async def _client(target: Target) -> AsyncIterator[VersClient]:
    from langchain_vers.platform.client import VersClient

    async with VersClient(target.credentials, target.endpoints, retries=1, deadline=20, timeout=10) as client:
        yield client


async def _examine(data_dir: Path | None, engine: str, *, embedded: bool) -> list[Check]:
    """All checks, those of the Vers that is in use first; a check whose ground is missing is not made."""
    from langchain_vers.errors import VersError

    checks: list[Check] = []
    try:
        target = await asyncio.to_thread(_target, data_dir, embedded=embedded)
    except VersError as error:
        checks.append(Check("key", False, str(error)))
    else:
        checks.append(Check("key", True, target.found))
        try:
            async for client in _client(target):
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
    import ssl

    from langchain_vers import _io
    from langchain_vers.errors import VersError
    from langchain_vers.platform.tunnel import SSHConnection

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
    from langchain_vers.embedded.engine import EngineError
    from langchain_vers.embedded.server import INSTALL_HINT, load_engine
    from langchain_vers.errors import VersError

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


if __name__ == "__main__":
    main()
