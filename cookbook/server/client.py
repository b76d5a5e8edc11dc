"""A session with the server, as a program has it: `python client.py [URL]`. Prints what happens, while it happens."""

import sys
from typing import Any

from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient


class Session:
    """One thread of the server."""

    def __init__(self, client: SyncLangGraphClient) -> None:
        self.runs, self.threads = client.runs, client.threads
        self.thread = client.threads.create()["thread_id"]

    def say(self, text: str | None, **options: Any) -> None:
        """Send a message, print output as it comes, and what the agent asks or answers."""
        if text is not None:
            print(f"\n> {text}")
            options["input"] = {"messages": [{"role": "user", "content": text}]}
        for part in self.runs.stream(self.thread, "agent", stream_mode=["custom", "updates"], **options):
            if part.event == "custom" and part.data.get("type") == "tool_output":
                print(part.data["delta"], end="", flush=True)
            elif part.event == "updates":
                for question in part.data.get("__interrupt__") or []:
                    print(f"? {question['value']['question']}")
            elif part.event == "error":
                print(f"! {part.data}")

    def machine(self) -> str:
        """The machine of the last tool call; "none" if there was none."""
        messages = self.threads.get_state(self.thread)["values"].get("messages", [])
        machines = [one["artifact"]["machine_id"] for one in messages if one["type"] == "tool" and one["artifact"]["machine_id"]]
        return str(machines[-1]) if machines else "none"


def main(url: str) -> None:
    client = get_sync_client(url=url, api_key=None)
    one = Session(client)
    print(f"thread {one.thread}: machine {one.machine()}")
    one.say("for i in 1 2 3; do echo line $i; sleep 0.1; done; echo kept >~/note")
    print(f"machine {one.machine()}")
    past = one.threads.get_state(one.thread)["checkpoint"]
    one.say("rm -rf ~/note")
    one.say(None, command={"resume": True})  # yes
    one.say("cat ~/note || echo it is gone")
    if "vers_machine" in (one.threads.get_state(one.thread).get("metadata") or {}):
        one.say("cat ~/note", checkpoint=past)  # from before it was removed: on another machine
        print(f"machine {one.machine()}")
    other = Session(client)
    other.say("ls ~/note || echo it was never here")
    print(f"machine {other.machine()}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:2024")
