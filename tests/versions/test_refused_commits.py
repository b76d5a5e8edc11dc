"""A commit that cannot be made is no reason to stop: the run goes on, the checkpoint says why it has none, the next has one again."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from rigs.api_front import ApiFront

from langchain_vers.embedded import launcher
from langchain_vers.errors import VersError
from versions.worlds import GO, World, after, answers, append, at, check, create, head, thread

KIB = 1024
BIG = ("bash", {"command": "head -c 400K /dev/zero > ~/big; echo big >> ~/log; echo did big"})


@pytest.fixture
def front(world: World) -> Iterator[ApiFront]:
    """An HTTP front of the server, which refuses commits when it is told to."""
    server = launcher.find_running(world.data_dir)
    assert server is not None
    with ApiFront(server.base_url) as front:
        yield front


def by_way_of(front: ApiFront, world: World) -> dict[str, Any]:
    """The arguments of a context that asks the front."""
    server = launcher.find_running(world.data_dir)
    assert server is not None
    host, port = server.ssh_endpoint
    return {"base_url": front.url, "api_key": server.api_key, "ca_file": server.ca_file, "ssh_endpoint": f"{host}:{port}"}


class Refusals:
    """A thread whose second superstep is not committed."""

    def __init__(self, world: World, process: Any, refuse: Callable[[bool], None], big: bool = False) -> None:
        self.world, self.process = world, process
        self.graph = process.agent(
            [*create(), append("one")], *([[BIG]] if big else []), "done", [append("two")], "done", [append("three")], "done"
        )
        self.graph.invoke(GO, thread())
        self.first = head(self.graph, thread())["vers_commit"]
        refuse(True)
        state = self.graph.invoke(GO, thread())
        assert answers(state)[-1].status == "success"
        assert "did two" in answers(state)[-1].content
        self.refused = self.graph.get_state(at(self.graph, thread(), after(4 + big)))
        self.said = self.refused.metadata
        refuse(False)

    def check(self, reason: str) -> None:
        assert "vers_commit" not in self.said
        assert self.said["vers_no_commit"].startswith("the commit could not be made: ")
        assert reason in self.said["vers_no_commit"]
        assert self.said["vers_nearest"] == self.first
        machine = self.said["vers_machine"]
        self.graph.invoke(GO, thread())
        assert head(self.graph, thread())["vers_machine"] == machine
        assert head(self.graph, thread())["vers_commit"] != self.first
        assert "vers_no_commit" not in head(self.graph, thread())
        assert self.world.log_at(self.process, thread())[-2:] == ["two", "three"]
        with pytest.raises(VersError, match=f"the nearest earlier one is {self.first}"):
            self.process.saver.machine_at(self.refused.config)
        check(self.process, self.graph, thread(), lenient=True)


@pytest.mark.parametrize(
    ("status", "message"), [(402, "The quota of commits is used up."), (429, "Too many commits."), (507, "There is no room left.")]
)
def test_the_platform_refuses(world: World, front: ApiFront, status: int, message: str) -> None:
    with world.process(context=by_way_of(front, world)) as process:

        def refuse(refusing: bool) -> None:
            front.refusals = {("POST", "/commit"): (status, message)} if refusing else {}

        Refusals(world, process, refuse).check(message)
        assert front.refused > 0


def test_the_server_has_no_room(world: World) -> None:
    """For real: its processes may not write files as large as the machine's."""
    server = launcher.find_running(world.data_dir)
    assert server is not None
    server_process = psutil.Process(server.pid)

    def refuse(refusing: bool) -> None:
        for each in (server_process, *server_process.children(recursive=True)):
            with contextlib.suppress(ProcessLookupError):
                _, hard = resource.prlimit(each.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(each.pid, resource.RLIMIT_FSIZE, (200 * KIB if refusing else hard, hard))

    try:
        with world.process() as process:
            Refusals(world, process, refuse, big=True).check("Cannot snapshot")
    finally:
        refuse(False)


def test_the_first_version_of_a_machine_cannot_be_committed(world: World, front: ApiFront) -> None:
    """A machine that a thread was put on is committed before the first call that changes it, to have something to go back to."""
    vm = world.vm()
    with world.process(context=by_way_of(front, world)) as process:
        graph = process.agent([append("one")], [append("two")], "done")
        process.context.attach(vm, thread())
        front.refusals = {("POST", "/commit"): (402, "The quota of commits is used up.")}
        state = graph.invoke(GO, thread())
        assert [one.status for one in answers(state)] == ["success", "success"]
        assert "The quota of commits is used up." in head(graph, thread())["vers_no_commit"]
        assert world.log(vm) == ["one", "two"]
        with pytest.raises(VersError, match="has no commit to restore"):
            process.saver.machine_at(thread())
        front.refusals = {}
        commit = process.saver.commit(thread())
        assert world.log_at(process, thread()) == ["one", "two"]
        assert commit in world.commits()


def test_a_commit_that_is_asked_for_says_why_it_could_not_be_made(world: World, front: ApiFront) -> None:
    with world.process(context=by_way_of(front, world), commit="manual") as process:
        graph = process.agent([*create(), append("one")], "done")
        graph.invoke(GO, thread())
        front.refusals = {("POST", "/commit"): (402, "The quota of commits is used up.")}
        with pytest.raises(VersError, match=r"the commit of VM .* could not be made: .*The quota of commits is used up\."):
            process.saver.commit(thread())
        front.refusals = {}
        assert process.saver.commit(thread())
        assert world.log_at(process, thread()) == ["one"]


def test_a_restore_that_is_refused_leaves_nothing_behind(world: World, front: ApiFront) -> None:
    with world.process(context=by_way_of(front, world)) as process:
        graph = process.agent([*create(), append("one")], [append("two")], "done")
        graph.invoke(GO, thread())
        vms = world.vms()
        front.refusals = {("POST", "/from_commit"): (402, "The quota of VMs is used up.")}
        state = graph.invoke(None, at(graph, thread(), after(3)))
        assert answers(state)[-1].status == "error"
        assert "The quota of VMs is used up." in answers(state)[-1].content
        front.refusals = {("PATCH", "/label"): (402, "No labels.")}
        state = graph.invoke(None, at(graph, thread(), lambda state: after(3)(state) and state.metadata["step"] == 2))
        assert "No labels." in answers(state)[-1].content
        assert world.vms() == vms
