"""The command line: `langchain-vers demo | serve | stop | vms | doctor | history | checkout | gc`.

Says what there is to call; what is called is in `commands` and elsewhere. Imports are made where they are needed, so that `--help` is
quick.
"""

# ruff: noqa: PLC0415 - lazy imports are the point here
from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

try:
    import typer
except ImportError as missing:
    message = 'langchain-vers: the command line needs packages that are not installed; run: pip install "langchain-vers[embedded]"'
    raise SystemExit(message) from missing

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A computer for LangChain agents: the Vers on this machine, and a look at any Vers.",
)
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of the embedded Vers.", show_default="~/.local/state/langchain-vers")
]
EngineName = Annotated[str, typer.Option("--engine", help="namespaces (isolated machines) or process (not isolated).")]
Database = Annotated[
    str, typer.Option("--db", metavar="FILE|URL", help="Where the checkpoints are: a sqlite file, or postgres://user@host/name.")
]
OneThread = Annotated[str, typer.Option("--thread", help="The thread's id.")]
AnyThread = Annotated[str | None, typer.Option("--thread", help="The thread's id.", show_default="list all threads")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Embedded = Annotated[bool, typer.Option("--embedded", help="Look at the Vers on this machine, whatever key is configured.")]


@app.command()
def demo(
    *,
    model: Annotated[str | None, typer.Option(metavar="PROVIDER:NAME", help="Let this model do the work instead of a script.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Folder of the embedded Vers to use, which stays.", show_default="a temporary one")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the machines and the server for a look.")] = False,
    vers: Annotated[bool, typer.Option("--vers", help="Use the configured Vers platform instead of an embedded one.")] = False,
    act: Annotated[
        int | None, typer.Option(min=1, max=2, help="Play one act only: 1, the tools; 2, a crash and time travel. Both without it.")
    ] = None,
) -> None:
    """Watch an agent work on a VM; needs no key. Exit status 1 if a step does not check out."""
    from langchain_vers.demo.options import DemoOptions, run

    raise typer.Exit(run(DemoOptions(model=model, data_dir=data_dir, keep=keep, vers=vers, act=act)))


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

    with _problems_told():
        stopped = launcher.stop(data_dir)
    typer.echo("Stopped." if stopped else "No embedded Vers is running.")


@app.command()
def vms(*, embedded: Embedded = False, data_dir: DataDir = None) -> None:
    """List the VMs of the configured Vers: the platform, or without a key the Vers on this machine."""
    from rich.console import Console
    from rich.table import Table

    from langchain_vers.commands.showing import age
    from langchain_vers.commands.target import find_target, open_client

    async def listed() -> None:
        async with open_client(await asyncio.to_thread(find_target, data_dir, embedded=embedded)) as client:
            found = await client.list_vms()
            table = Table("VM", "State", "Age", "Labels", title=client.endpoints.base_url, title_justify="left")
            for vm in found:
                labels = " ".join(f"{name}={value}" for name, value in sorted(vm.labels.items()))
                table.add_row(vm.vm_id, str(vm.state), age(vm.created_at), labels)
            Console().print(table)

    with _problems_told():
        asyncio.run(listed())


@app.command()
def doctor(*, embedded: Embedded = False, data_dir: DataDir = None, engine: EngineName = "namespaces") -> None:
    """Check the key, the API, TLS, SSH, and the engine of the Vers on this machine; exit status 1 if a check fails."""
    from rich.console import Console

    from langchain_vers.commands.doctor import examine

    console = Console(highlight=False)
    failed = False
    checks = asyncio.run(examine(data_dir, engine, embedded=embedded))
    for check in checks:
        failed = failed or check.ok is False
        mark = {True: "[green]ok[/]    ", False: "[red]failed[/]", None: "[yellow]-[/]     "}[check.ok]
        console.print(mark, check.name.ljust(7), end=" ")
        console.print(check.text, markup=False, soft_wrap=True)
    raise typer.Exit(1 if failed else 0)


@app.command()
def history(*, db: Database, thread: AnyThread = None, json: AsJson = False) -> None:
    """Show a thread's checkpoints as a tree, with the machine and what it cost; without --thread, list the threads."""
    from langchain_vers.commands.history import show

    with _problems_told():
        show(db, thread, as_json=json)


@app.command()
def checkout(
    checkpoint: Annotated[str, typer.Argument(help="Id of a checkpoint, or the beginning of one; see history.")],
    *,
    db: Database,
    thread: OneThread,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    embedded: Embedded = False,
    data_dir: DataDir = None,
) -> None:
    """Let a thread go on from one of its checkpoints, on a machine as it was then. What came after it stays, as another branch."""
    from langchain_vers.commands.checkout import checkout as command

    with _problems_told():
        command(db, thread, checkpoint, data_dir, embedded=embedded, dry_run=dry_run)


@app.command()
def gc(
    *,
    db: Database,
    yes: Annotated[bool, typer.Option("--yes", help="Delete them; without it they are listed only.")] = False,
    grace: Annotated[
        str, typer.Option(help="Leave alone what is younger, such as 90s, 30min, 1h, 2d: a run may be about to refer to it.")
    ] = "1h",
    embedded: Embedded = False,
    data_dir: DataDir = None,
) -> None:
    """Find VMs and commits that were made for threads of a database and that none of its checkpoints refers to any more.

    A copy of a database counts as the same database: what only the other copy refers to is found too.
    """
    from langchain_vers.commands.gc import gc as command

    with _problems_told():
        raise typer.Exit(command(db, data_dir, yes=yes, grace=grace, embedded=embedded))


def main() -> None:
    """Entry point of the `langchain-vers` command."""
    app(prog_name="langchain-vers")


@contextmanager
def _problems_told() -> Iterator[None]:
    """Turn an error of this package into its one sentence and exit status 1."""
    from langchain_vers.errors import VersError

    try:
        yield
    except VersError as error:
        typer.echo(f"langchain-vers: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    main()
