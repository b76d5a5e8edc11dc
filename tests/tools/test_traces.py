"""What LangSmith is sent of an agent whose commands have a secret: the SDK's own requests, received by a real server, hold no form of it.

The agent is a program of its own, with tracing switched on by the environment as users do it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from rigs.traces import Collector

TESTS = Path(__file__).parent.parent
VALUE = "sesame-open-0123456789"
ODD = 'p"a\\ss\nwo/rd+ =%é-987654'
MARK = "[secret THE_SECRET]"

SHOWING = [
    ('echo "<$TOKEN>"; echo "<$ODD>"', "shown"),
    ('printf %s "$TOKEN" | base64; printf "x%s" "$TOKEN" | base64 -w0; printf %s "$ODD" | base64 -w 12', "base64"),
    ('printf %s "$TOKEN" | od -An -v -tx1 | tr -d " \\n"; printf %s "$ODD" | od -An -v -tx1 | tr -d " \\n" | tr a-f A-F', "hex"),
    ('for i in $(seq ${#TOKEN}); do printf "%s" "${TOKEN:i-1:1}"; done; echo', "in pieces"),
    ('echo "$TOKEN" >&2; exit 3', "failing"),
    ('d=$(mktemp -d "$PWD/$TOKEN.XXXX"); cd "$d"; pwd', "a directory that is called so"),
    ('cd ..; printf %s "$TOKEN" >file; yes "$TOKEN" | head -n 4000', "cut"),
    ('echo "$TOKEN"; kill -9 $$', "killed"),
]


def forms(value: str) -> set[bytes]:
    """The value as it may be written in what was sent, also twice wrapped in JSON."""
    raw = value.encode()
    texts = {value, *(line for line in value.splitlines() if len(line) >= 8)}
    for _ in range(2):
        texts |= {json.dumps(text, ensure_ascii=ascii)[1:-1] for text in tuple(texts) for ascii in (True, False)}
    found = {text.encode() for text in texts} | {quote(raw, safe="").encode(), quote_plus(raw).encode()}
    found |= {raw.hex().encode(), raw.hex().upper().encode()}
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + raw).decode()
        inner = whole[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]
        found |= {inner.encode(), inner[:12].encode()}
    return found


@pytest.mark.parametrize(
    ("compressed", "multipart"),
    [(True, True), pytest.param(False, True, marks=pytest.mark.full), pytest.param(False, False, marks=pytest.mark.full)],
)
def test_no_form_of_a_secret_is_sent(compressed: bool, multipart: bool, tmp_path: Path, clean: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VERS_", "LANG"))}
    with Collector(compressed=compressed, multipart=multipart) as collector:
        environment = {
            **kept,
            "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
            "LANGSMITH_TRACING": "true",
            "LANGSMITH_ENDPOINT": collector.url,
            "LANGSMITH_API_KEY": "anything",
            "THE_SECRET": VALUE,
            "ODD_SECRET": ODD,
        }
        done = subprocess.run([sys.executable, __file__, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    sent = collector.everything()
    assert ("zstd" in collector.encodings) is compressed
    # It is the traces of all of this that were received, with what the calls answered, and the marks where the secrets were.
    assert all(word.encode() in sent for word in told["canaries"])
    assert sent.count(MARK.encode()) > 20 and b"[secret ODD_SECRET]" in sent
    assert b"vers_backend" in sent and b"vers_exit_code" in sent and b"tool_output" not in sent
    assert told["on the machine"]  # the commands had it
    assert MARK in told["streamed"]
    for value in (VALUE, ODD):
        for form in forms(value):
            for shown in (sent, told["streamed"].encode()):
                at = shown.find(form)
                assert at < 0, shown[max(0, at - 300) : at + 100]


# --- the program ---


def main(folder: Path) -> None:
    """Runs the agents; prints what must be found in the traces, and what must not but was on the machine."""
    from agents import ScriptedModel, message
    from langchain.agents import create_agent
    from langchain_core.messages import AIMessage
    from langchain_core.tracers.langchain import wait_for_all_tracers
    from langgraph.checkpoint.memory import InMemorySaver

    from langchain_vers import BackendContext, VersToolkit
    from langchain_vers.backends.environment import Secret
    from langchain_vers.middleware import VersMiddleware
    from langchain_vers.policy import Ask, Policy, Rule

    here = folder / "here"
    here.mkdir()
    policy = Policy(Rule(Ask("Is `tee` fine?"), commands=["tee *"]))
    context = BackendContext(
        local=here, data_dir=folder / "none", policy=policy, env={"TOKEN": Secret("THE_SECRET"), "ODD": Secret("ODD_SECRET")}
    )
    tools = VersToolkit(context=context).get_tools()
    bash = next(tool for tool in tools if tool.name == "bash")
    streamed: list[str] = []

    def marked(command: str, name: str) -> str:
        return f": canary-{name.replace(' ', '-')}; {command}"

    def calls() -> list[AIMessage]:
        steps = [[("bash", {"command": marked(command, name)})] for command, name in SHOWING]
        steps.append([("read", {"path": "file"}), ("grep", {"pattern": "sesame", "path": "file"}), ("ls", {}), ("find", {"pattern": "*"})])
        steps.append([("bash", {"command": 'echo "$TOKEN"; sleep 60', "timeout": 0.3}), ("read", {"path": "no/file"})])
        steps.append(
            [
                ("edit", {"path": "file", "old_text": "sesame", "new_text": "simsim"}),
                ("bash", {"command": "echo $TOKEN", "background": True}),
            ]
        )
        return [*(message(*step, first=10 * number) for number, step in enumerate(steps)), AIMessage("done")]

    def agent() -> Any:
        return create_agent(ScriptedModel(script=calls()), tools, middleware=[VersMiddleware(context)], checkpointer=InMemorySaver())

    commands = ['!echo "<$TOKEN>" canary-command', '!!echo "$ODD" canary-hidden', '!echo "$TOKEN" | tee -a file; false', '!cd "/no/$TOKEN"']
    say = [{"messages": [("user", text)]} for text in ["go", *commands]]

    def config(name: str) -> Any:
        return {"configurable": {"thread_id": name}}

    from langgraph.types import Command

    one = agent()
    for given in say:
        for mode, shown in one.stream(given, config("sync"), stream_mode=["custom", "tools", "updates", "values"]):
            streamed.append(shown["delta"] if mode == "custom" else repr(shown))
        if one.get_state(config("sync")).interrupts:
            one.invoke(Command(resume=True), config("sync"))

    async def later() -> None:
        two = agent()
        for given in say:
            async for event in two.astream_events(given, config("async"), version="v2"):
                streamed.append(repr(event["data"]))
            if (await two.aget_state(config("async"))).interrupts:
                await two.ainvoke(Command(resume=True), config("async"))
        await bash.ainvoke({"command": 'echo "$TOKEN" canary-alone'})

    asyncio.run(later())
    for command in ('echo "$TOKEN" canary-direct', 'echo "$TOKEN"; exit 7'):
        bash.invoke({"command": command})
    context.close()
    wait_for_all_tracers()
    names = [f"canary-{name.replace(' ', '-')}" for _, name in SHOWING]
    told = {
        "canaries": [*names, "canary-command", "canary-hidden", "canary-alone", "canary-direct"],
        "streamed": "".join(streamed),
        "on the machine": VALUE in (here / "file").read_text(),
    }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
