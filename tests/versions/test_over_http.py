"""`VersSaver` where machines are reached over the platform's API alone: the same guards, the same versions."""

from __future__ import annotations

from versions.worlds import GO, World, after, append, at, check, create, head, thread


def test_versions_without_ssh(world: World) -> None:
    over = {"transport": "http"}
    says = (create(), [append("a")], [append("b")], [append("c")], "done", [append("d")], "done")
    with world.process(context=over) as process:
        graph = process.agent(*says)
        graph.invoke(GO, thread())
        first = head(graph, thread())["vers_machine"]
        assert world.log(first) == ["a", "b", "c"]
        check(process, graph, thread())
        there = at(graph, thread(), after(4))
    with world.process(context=over) as process:
        graph = process.agent(*says)
        graph.invoke(GO, thread())
        assert world.log(first) == ["a", "b", "c", "d"]
        graph.invoke(None, there)
        second = head(graph, thread())["vers_machine"]
        assert second != first and world.log(second) == ["a", "b", "c"]
        check(process, graph, thread())


def test_another_process_over_ssh_goes_on(world: World) -> None:
    says = (create(), [append("a")], "done", [append("b")], "done")
    with world.process(context={"transport": "http"}) as process:
        process.agent(*says).invoke(GO, thread())
    with world.process() as process:
        graph = process.agent(*says)
        graph.invoke(GO, thread())
        assert world.log(head(graph, thread())["vers_machine"]) == ["a", "b"]
        check(process, graph, thread())
