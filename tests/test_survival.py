"""What a process keeps: connections and jobs over second toolkits, reloads, cells that are run again; and nothing after the last close."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from agents import Runner
from pydantic import SecretStr

import langchain_vers
from langchain_vers import BackendContext, VersToolkit, trunk
from langchain_vers._io import run
from langchain_vers.platform import Credentials
from langchain_vers.trunk import Account

direct = Runner("direct", asynchronous=False)


def one(toolkit: VersToolkit, name: str, /, **arguments: Any) -> Any:
    answer = direct(toolkit.get_tools(), (name, arguments))[0]
    assert answer.status == "success", answer.content
    return answer


def connections() -> set[Any]:
    """This process's connections to servers, by their own ends."""
    return {found.laddr for found in psutil.Process().net_connections("tcp") if found.status == psutil.CONN_ESTABLISHED and found.raddr}


def open_now(context: BackendContext, vm_id: str) -> bool:
    async def look() -> bool:
        return context.link.open_machine(vm_id) is not None

    return run(look())


# --- several contexts of one account ---


@pytest.fixture
def two(make_toolkit: Any) -> tuple[VersToolkit, VersToolkit, str]:
    """Two toolkits with contexts of their own, of which the first is on a VM; and the VM."""
    first, second = make_toolkit(), make_toolkit()
    return first, second, one(first, "vers_vm_create").artifact["machine_id"]


def test_a_second_toolkit_uses_the_connections_of_the_first(two: Any, make_toolkit: Any) -> None:
    first, second, vm_id = two
    job = one(first, "bash", command="exec sleep 1000", background=True).artifact["job_id"]
    before, threads = connections(), threading.active_count()
    assert before
    one(second, "vers_vm_use", vm_id=vm_id)
    assert one(second, "bash_output", job_id=job).artifact["running"] is True
    assert connections() == before and threading.active_count() <= threads + 1
    other = make_toolkit(idle_pause=3600)  # another account, as far as connections go
    one(other, "vers_vm_use", vm_id=vm_id)
    assert connections() > before
    other.close()
    one(second, "bash_kill", job_id=job)


def test_closing_one_leaves_the_other_its_connections(two: Any) -> None:
    first, second, vm_id = two
    one(second, "vers_vm_use", vm_id=vm_id)
    running: list[Any] = []
    call = threading.Thread(target=lambda: running.append(one(second, "bash", command="touch begun; until [ -e go ]; do sleep 0.01; done")))
    call.start()
    one(first, "bash", command="until [ -e begun ]; do sleep 0.01; done")
    first.close()
    assert open_now(second.context, vm_id)
    one(second, "bash", command="touch go")
    call.join(60)
    assert running[0].artifact["reconnects"] == 0
    assert one(first, "bash", command="echo again").content == "again"  # a closed one can be used again
    second.close()
    assert open_now(first.context, vm_id)
    first.close()
    assert not open_now(first.context, vm_id)


def test_the_last_one_leaves_nothing(two: Any, clean: Path) -> None:
    first, second, vm_id = two
    before = connections()
    toolkits = [VersToolkit(context=BackendContext(data_dir=first.data_dir, idle_pause=1800)) for _ in range(8)]

    def work(toolkit: VersToolkit) -> None:
        one(toolkit, "vers_vm_use", vm_id=vm_id)
        assert one(toolkit, "bash", command="echo $((6*7))").content == "42"

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, toolkits))
        assert connections() > before
        list(pool.map(VersToolkit.close, toolkits))
    assert connections() <= before
    assert run(_state(first, vm_id)) == "running"  # it destroys no machine; neither does leaving one
    second.context.detach()
    first.context.detach()
    assert run(_state(first, vm_id)) == "running"


async def _state(toolkit: VersToolkit, vm_id: str) -> str:
    assert toolkit.context is not None
    return str((await (await toolkit.context.client()).get_vm(vm_id)).state)


def test_a_toolkit_that_takes_the_place_of_another_inherits_its_connections(make_toolkit: Any, vers_data: Path) -> None:
    """A cell that is run again, or a module that is reloaded: the new one is there before the old one is dropped."""
    toolkit = VersToolkit(data_dir=vers_data, idle_pause=7200)
    vm_id = one(toolkit, "vers_vm_create").artifact["machine_id"]
    before = connections()
    toolkit = VersToolkit(data_dir=vers_data, idle_pause=7200)
    gc.collect()
    one(toolkit, "vers_vm_use", vm_id=vm_id)
    assert connections() == before
    toolkit.close()
    assert connections() < before


def test_what_nobody_comes_for_is_given_back(make_toolkit: Any, vers_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk, "LEFT_SECONDS", 0.05)
    first, second = (VersToolkit(data_dir=vers_data, idle_pause=5400) for _ in range(2))
    ids = [one(toolkit, "vers_vm_create").artifact["machine_id"] for toolkit in (first, second)]
    del first
    gc.collect()

    async def given_back() -> None:
        assert second.context is not None
        while second.context.link.open_machine(ids[0]) is not None:
            await asyncio.sleep(0.01)

    run(given_back())
    assert second.context is not None
    assert open_now(second.context, ids[1])
    second.close()


def test_a_deleted_machine_is_gone_for_all(two: Any) -> None:
    first, second, vm_id = two
    one(second, "vers_vm_use", vm_id=vm_id)
    one(second, "vers_vm_delete", vm_id=vm_id)
    answer = direct(first.get_tools(), ("bash", {"command": "true"}))[0]
    assert (answer.artifact["error"], answer.artifact["machine_id"]) == ("Gone", vm_id)


def test_calls_and_commits_of_all_contexts_stand_in_one_order(two: Any, make_toolkit: Any) -> None:
    contexts = [toolkit.context for toolkit in (*two[:2], make_toolkit(idle_pause=60))]

    async def look() -> None:
        async with contexts[0].resting("a-vm"):
            gates = [context.link.gates.get("a-vm") for context in contexts]
            assert gates[0] is gates[1] is gates[2] and gates[0].busy
        del gates
        gc.collect()
        assert "a-vm" not in contexts[0].link.gates  # nothing is kept of machines that nobody works on
        assert contexts[0].link.bringing is contexts[2].link.bringing

    run(look())


# --- which accounts are one ---


def account(api_key: Any = None, **options: Any) -> Account:
    return Account(Credentials(api_key), **options)


def test_accounts_that_are_one(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key() -> str:
        return "k"

    assert account().identity() == account(data_dir=clean / ".local/state/langchain-vers").identity()
    assert account("k").identity() == account(SecretStr("k")).identity()
    assert account(key).identity() == account(key).identity()
    assert account("k", base_url="https://a").identity() == account("k", base_url="https://a").identity()
    monkeypatch.setenv("VERS_BASE_URL", "https://a")
    assert account("k").identity() == account("k", base_url="https://a").identity()


def test_accounts_that_are_not_one(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    different = [
        account().identity(),
        account("k").identity(),
        account("l").identity(),
        account(lambda: "k").identity(),
        account(lambda: "k").identity(),
        account("k", base_url="https://a").identity(),
        account("k", ssh_endpoint="a:1").identity(),
        account("k", ca_file=Path("/a")).identity(),
        account(data_dir=Path("/a")).identity(),
        account(idle_pause=60.0).identity(),
    ]
    (clean / ".vers").mkdir()
    (clean / ".vers/keys.json").write_text("{}")
    different.append(account().identity())
    for value in ("s3cret", "s3cret too"):
        monkeypatch.setenv("VERS_API_KEY", value)
        different.append(account().identity())
    assert len(set(different)) == len(different)
    assert "s3cret" not in repr(different)


# --- reloads ---

BEGIN = """
    import contextlib, gc, importlib, json, os, sys, threading
    import psutil
    me = psutil.Process()

    def call(toolkit, name, **arguments):
        tool = next(tool for tool in toolkit.get_tools() if tool.name == name)
        answer = tool.invoke({"type": "tool_call", "id": "1", "name": name, "args": arguments})
        return answer

    def ok(toolkit, name, **arguments):
        answer = call(toolkit, name, **arguments)
        assert answer.status == "success", answer.content
        return answer

    def connections():
        found = me.net_connections("tcp")
        return sorted(each.laddr.port for each in found if each.status == psutil.CONN_ESTABLISHED and each.raddr)

    def own_threads():
        return sum(thread.name == "langchain-vers-io" for thread in threading.enumerate())
"""
FIRST = """
    from langchain_vers import VersToolkit
    old = VersToolkit(data_dir=DATA)
    vm = ok(old, "vers_vm_create").artifact["machine_id"]
    job = ok(old, "bash", command="exec sleep 1000", background=True).artifact["job_id"]
    before = connections()
    assert before
"""
AFTERWARDS = """
    from langchain_vers import VersToolkit
    new = VersToolkit(data_dir=DATA)
    ok(new, "vers_vm_use", vm_id=vm)
    assert ok(new, "bash_output", job_id=job).artifact["running"]
    assert connections() == before, (connections(), before)
    assert call(new, "read", path="no such file").artifact["error"] == "Missing"
    assert call(new, "bash", command="sleep 60", timeout=0.2).artifact["timed_out"]
    ok(new, "write", path="a", content="b")
    assert ok(new, "bash", command="cat a; cd /").content == "b"
    ok(new, "vers_vm_delete", vm_id=ok(new, "vers_vm_create", attach=False, labels={"a": "b"}).artifact["machine_id"])
    # Whoever still has the old one is understood, too.
    assert call(old, "read", path="no such file").artifact["error"] == "Missing"
    assert ok(old, "bash", command="echo old").content == "old"
    assert own_threads() == 1
    old.close()
    assert ok(new, "bash_kill", job_id=job).artifact["killed"]
    new.close()
    assert connections() == [], connections()
    ok(new, "vers_vm_delete", vm_id=vm)
    print("fine")
"""
OURS = 'names = [name for name in sys.modules if name.split(".")[0] == "langchain_vers"]'
RELOADS = {
    "some modules": 'for name in ("_io", "link", "trunk", "context", "toolkit"): importlib.reload(sys.modules["langchain_vers." + name])',
    "all modules": f"{OURS}\nfor name in names: importlib.reload(sys.modules[name])",
    "all modules, from below": f"{OURS}\nfor name in reversed(names): importlib.reload(sys.modules[name])",
    "modules are imported anew": f"{OURS}\nfor name in names: del sys.modules[name]",
}


def script(data: Path, *parts: str, folder: Path | None = None, **names: Any) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, in which every warning is an error."""
    given = "".join(f"{name} = {value!r}\n" for name, value in {"DATA": str(data), **names}.items())
    program = given + "".join(textwrap.dedent(part) for part in parts)
    environment = {**os.environ, "PYTHONPATH": str(folder or Path(langchain_vers.__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, env=environment, cwd=folder)


def fine(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", ""), done.stderr + done.stdout


@pytest.mark.parametrize("how", [pytest.param(how, marks=() if "anew" in how else pytest.mark.full) for how in RELOADS])
def test_reloads_of_the_package(how: str, clean: Path, vers_data: Path) -> None:
    fine(script(vers_data, BEGIN, FIRST, RELOADS[how] + "\n", AFTERWARDS))


def test_a_module_of_the_person_is_reloaded(clean: Path, vers_data: Path, tmp_path: Path) -> None:
    """As hot reloaders do with the module that makes the agent: nothing is closed, and nothing is opened anew."""
    (tmp_path / "my_agent.py").write_text(
        "import os\nfrom langchain_vers import VersToolkit\ntoolkit = VersToolkit(data_dir=os.environ['DATA'])\n"
    )
    reload = """
        sys.path.insert(0, FOLDER)
        os.environ["DATA"] = DATA
        import my_agent
        vm = ok(my_agent.toolkit, "vers_vm_create").artifact["machine_id"]
        job = ok(my_agent.toolkit, "bash", command="exec sleep 1000", background=True).artifact["job_id"]
        before = connections()
        for _ in range(3):
            importlib.reload(my_agent)
            gc.collect()
            ok(my_agent.toolkit, "vers_vm_use", vm_id=vm)
            assert ok(my_agent.toolkit, "bash_output", job_id=job).artifact["running"]
            assert connections() == before, (connections(), before)
        assert own_threads() == 1
        ok(my_agent.toolkit, "vers_vm_delete", vm_id=vm)
        my_agent.toolkit.close()
        assert connections() == []
        print("fine")
    """
    fine(script(vers_data, BEGIN, reload, FOLDER=str(tmp_path)))


def test_cells_of_a_notebook_are_run_again_and_autoreload(clean: Path, vers_data: Path, tmp_path: Path) -> None:
    """IPython itself, with the package in a folder where its modules can be changed: autoreload empties their namespaces."""
    package = Path(langchain_vers.__file__).parent
    shutil.copytree(package, tmp_path / "langchain_vers", ignore=shutil.ignore_patterns("__pycache__"))
    notebook = """
        from pathlib import Path
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        shell.history_manager.enabled = False
        shell.user_ns.update(DATA=DATA, ok=ok)

        def cell(code):
            result = shell.run_cell(code, store_history=False)
            result.raise_error()
            return result.result

        cell("%load_ext autoreload")
        cell("%autoreload 2")
        make = "from langchain_vers import VersToolkit\\ntoolkit = VersToolkit(data_dir=DATA)"
        cell(make)
        assert Path(sys.modules["langchain_vers"].__file__).is_relative_to(FOLDER)
        vm = cell('vm = ok(toolkit, "vers_vm_create").artifact["machine_id"]; vm')
        job = cell('job = ok(toolkit, "bash", command="exec sleep 1000", background=True).artifact["job_id"]; job')
        before = connections()
        again = 'ok(toolkit, "vers_vm_use", vm_id=vm); ok(toolkit, "bash_output", job_id=job).artifact["running"]'
        for _ in range(2):
            cell(make)
            assert cell(again)
            assert connections() == before, (connections(), before)
        loop = sys.modules["langchain_vers._io"].io.loop
        for name in ("_io", "errors", "link", "trunk", "context", "toolkit", "backends/vers", "backends/pool", "tools/base"):
            file = Path(FOLDER, "langchain_vers", name + ".py")
            file.write_text(file.read_text() + "\\n\\nCHANGED = True\\n")
            os.utime(file, (file.stat().st_atime, file.stat().st_mtime + 10))
        assert cell(make + "\\n" + again)
        for name in ("_io", "errors", "link", "trunk", "backends.vers"):
            assert sys.modules["langchain_vers." + name].CHANGED, name
        assert sys.modules["langchain_vers._io"].io.loop is loop
        assert connections() == before, (connections(), before)
        assert own_threads() == 1
        assert cell('ok(toolkit, "bash", command="echo hi").content') == "hi"
        cell('ok(toolkit, "bash_kill", job_id=job); ok(toolkit, "vers_vm_delete", vm_id=vm)')
        gc.collect()  # those of before, which nobody has closed
        cell("toolkit.close()")
        assert connections() == [], connections()
        print("fine")
    """
    done = script(vers_data, BEGIN, notebook, folder=tmp_path, FOLDER=str(tmp_path))
    assert done.returncode == 0 and done.stdout.endswith("fine\n"), done.stderr + done.stdout


def test_the_end_of_the_interpreter_leaves_nothing(clean: Path, vers_data: Path, make_toolkit: Any) -> None:
    """Several contexts, some dropped, one with a call under way: the process ends in silence, and its machines and jobs live on."""
    end = """
        dropped, kept = VersToolkit(data_dir=DATA), VersToolkit(data_dir=DATA)
        ok(dropped, "vers_vm_use", vm_id=vm)
        del dropped
        kept.context.register("box", "local")
        kept.context.use("box")

        def work():
            with contextlib.suppress(BaseException):
                call(old, "bash", command="sleep 1000")

        threading.Thread(target=work, daemon=True).start()
        print(json.dumps([vm, job]))
    """
    done = script(vers_data, BEGIN, FIRST, end)
    assert (done.returncode, done.stderr) == (0, "")
    vm, job = json.loads(done.stdout)
    toolkit = make_toolkit()
    one(toolkit, "vers_vm_use", vm_id=vm)
    assert one(toolkit, "bash_kill", job_id=job).artifact["killed"] is True
