"""Secrets of commands: they reach the command, and nothing that is shown: not the model, not a stream, not an artifact."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from agents import START_INPUT, Runner, message, tool_graph

from langchain_vers.backends.environment import Secret
from langchain_vers.errors import BadInput
from langchain_vers.toolkit import VersToolkit

VALUE = "sesame-open-0123456789"
direct = Runner("direct", asynchronous=False)


@pytest.fixture
def toolkit(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("THE_SECRET", VALUE)
    (tmp_path / "here").mkdir()
    toolkit = VersToolkit(local=tmp_path / "here", env={"TOKEN": Secret("THE_SECRET"), "PLAIN": "p"})
    yield toolkit
    toolkit.close()


def one(toolkit: Any, tool: str, /, **arguments: Any) -> Any:
    return direct(toolkit.get_tools(), (tool, arguments))[0]


def test_nothing_of_it_is_shown(toolkit: Any, here: Path) -> None:
    show = 'echo "<$TOKEN> $PLAIN"; printf %s "$TOKEN" | base64; printf %s "$TOKEN" >f; printf %s "$TOKEN" | wc -c'
    answer = one(toolkit, "bash", command=show)
    # The last sign of Base64 holds two bits of the value.
    assert re.fullmatch(rf"<\[secret THE_SECRET\]> p\n\[secret THE_SECRET\].==\n{len(VALUE)}", answer.content)
    assert (here / "f").read_text() == VALUE
    for each in (answer, one(toolkit, "read", path="f"), one(toolkit, "bash", command='cd "$(mktemp -d "$PWD/$TOKEN.XXX")"; false')):
        everything = f"{each.content}{each.artifact}"
        assert VALUE not in everything
        assert base64.b64encode(VALUE.encode()).decode()[:20] not in everything
        assert "[secret THE_SECRET]" in everything


def test_not_when_output_is_cut(toolkit: Any) -> None:
    # The end of the last line is all that is shown of it, and its cut lies in the middle of a secret.
    pieces = [VALUE[start : start + 4] for start in range(len(VALUE) - 3)]
    for shift in (1, 8, 16):
        answer = one(toolkit, "bash", command=f'yes "$TOKEN" | head -n 18000 | tr -d "\\n"; printf "%{shift}s" x')
        assert answer.artifact["truncated"]
        shown, _, _ = answer.content.partition("\n\n[Showing")
        assert not [piece for piece in pieces if piece in shown]


def test_not_in_errors(toolkit: Any) -> None:
    answer = one(toolkit, "read", path=f"/no/{VALUE}")
    assert answer.status == "error"
    assert VALUE not in f"{answer.content}{answer.artifact}"


def test_not_in_the_output_of_jobs(toolkit: Any) -> None:
    job = one(toolkit, "bash", command='printf "%s" "${TOKEN%9}"; mkfifo p; read x <p; echo "${TOKEN#sesame}"; read x <p', background=True)
    job_id = job.artifact["job_id"]
    one(toolkit, "bash", command="until [ -p p ]; do :; done")
    first = one(toolkit, "bash_output", job_id=job_id)
    assert first.content.startswith("[secret THE_SECRET]")
    one(toolkit, "bash", command="echo >p; until [ $(wc -l <'" + job.artifact["log_path"] + "') -gt 0 ]; do :; done")
    second = one(toolkit, "bash_output", job_id=job_id)
    assert "open" not in second.content
    one(toolkit, "bash_kill", job_id=job_id)


def test_a_missing_one_is_an_error_and_nothing_runs(toolkit: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THE_SECRET")
    answer = one(toolkit, "bash", command="touch ran")
    assert (answer.status, answer.artifact["error"]) == ("error", "BadInput")
    assert "the secret THE_SECRET is not set" in answer.content
    assert not (here / "ran").exists()


def test_one_that_was_replaced_is_still_known(toolkit: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one(toolkit, "bash", command='printf %s "$TOKEN" >f')
    monkeypatch.setenv("THE_SECRET", "another-value")
    assert one(toolkit, "bash", command='cat f; echo " $TOKEN"').content == "[secret THE_SECRET] [secret THE_SECRET]"


def test_variables_of_one_thread(toolkit: Any) -> None:
    bash = next(tool for tool in toolkit.get_tools() if tool.name == "bash")
    first, second = ({"configurable": {"thread_id": name}} for name in ("1", "2"))
    toolkit.context.set_env({"WHO": "first", "PLAIN": None}, first)
    show = {"command": 'echo "$WHO/$PLAIN"'}
    assert (bash.invoke(show, first), bash.invoke(show, second)) == ("first/p", "/p")
    toolkit.context.set_env({"WHO": None, "PLAIN": "q"}, first)
    assert bash.invoke(show, first) == "/q"
    assert toolkit.context.env(first) == {"TOKEN": Secret("THE_SECRET"), "PLAIN": "q"}
    with pytest.raises(BadInput):
        toolkit.context.set_env({"A B": "x"}, first)


def test_a_secret_that_is_printed_in_pieces(toolkit: Any) -> None:
    command = 'for i in $(seq ${#TOKEN}); do printf "%s" "${TOKEN:i-1:1}"; sleep 0.06; done; echo .'
    graph = tool_graph(toolkit.get_tools(), message(("bash", {"command": command})))
    assert "".join(item["delta"] for item in graph.stream(START_INPUT, stream_mode="custom")) == "[secret THE_SECRET].\n"


def test_reprs_tell_nothing(toolkit: Any) -> None:
    one(toolkit, "bash", command="true")
    assert VALUE not in f"{toolkit!r}{toolkit.context.variables!r}{toolkit.context.redactor()!r}{vars(toolkit.context.local)!r}"


def test_on_a_machine(make_toolkit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_SECRET", VALUE)
    toolkit = make_toolkit(env={"TOKEN": Secret("THE_SECRET")})
    one(toolkit, "vers_vm_create")
    answer = one(
        toolkit,
        "bash",
        command='echo "<$TOKEN>"; printf %s "$TOKEN" | wc -c; cat /proc/[0-9]*/cmdline 2>/dev/null | grep -c "sesame-ope[n]" || true',
    )
    assert answer.content.split() == ["<[secret", "THE_SECRET]>", str(len(VALUE)), "0"]
