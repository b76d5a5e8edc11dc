"""What is a command of the person, which one is run, and what of it the model sees. Pure."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_vers.attachment import HERE, Attachment
from langchain_vers.bang_commands import UserCommand, facts_of, for_model, parse, pending, was_command
from langchain_vers.prompt import describe, extended, translated
from langchain_vers.turns import USER_COMMAND

TEXT = [{"type": "text", "text": "!ls"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


@pytest.mark.parametrize(
    ("content", "command", "hidden"),
    [
        ("!ls", "ls", False),
        ("! ls -l \n", "ls -l", False),
        ("!!ls", "ls", True),
        ("!! ls", "ls", True),
        ("!!!ls", "!ls", True),
        ("!cat <<X\n a\nX\n", "cat <<X\n a\nX", False),
        ("!", "", False),
        ("!! \n", "", True),
        (TEXT, "ls", False),
        (["!l", {"type": "text", "text": "s"}], "ls", False),
    ],
)
def test_commands(content: Any, command: str, hidden: bool) -> None:
    assert parse(HumanMessage(content, id="m")) == UserCommand(command, hidden, "m")


@pytest.mark.parametrize(
    "content", ["", "ls", " !ls", "\n!ls", "a!b", "¡ls", [], [IMAGE], [*TEXT, IMAGE], [IMAGE, *TEXT], [{"type": "text"}]]
)
def test_what_is_none(content: Any) -> None:
    assert parse(HumanMessage(content)) is None


@pytest.mark.parametrize("message", [AIMessage("!ls"), SystemMessage("!ls"), ToolMessage("!ls", tool_call_id="1"), "!ls", None])
def test_only_the_person_gives_commands(message: Any) -> None:
    assert parse(message) is None
    assert pending([message]) == ([], None)


def result(answers: str | None, hidden: bool = False) -> HumanMessage:
    return HumanMessage(
        "!not a command, but what one has printed", additional_kwargs={USER_COMMAND: {"answers": answers, "hidden": hidden}}
    )


def test_only_the_last_message_is_run_and_only_once() -> None:
    one, two, words = HumanMessage("!one", id="1"), HumanMessage("!two", id="2"), HumanMessage("hello", id="3")
    assert pending([]) == ([], None)
    assert pending([words, one]) == ([], UserCommand("one", False, "1"))
    assert pending([one, result("1")]) == ([], None)
    assert pending([one, result("1"), words]) == ([], None)
    assert pending([one, AIMessage("so"), two]) == ([], UserCommand("two", False, "2"))
    assert pending([one, two]) == ([UserCommand("one", False, "1")], UserCommand("two", False, "2"))
    assert pending([one, two, words]) == ([UserCommand("one", False, "1"), UserCommand("two", False, "2")], None)
    assert pending([one, words, result("1")]) == ([], None)
    assert pending([HumanMessage("!", id="4"), words]) == ([], None)


def test_whether_the_model_need_not_be_called() -> None:
    one, words = HumanMessage("!one", id="1"), HumanMessage("hello", id="3")
    assert was_command({"messages": [one, result("1")]}) and was_command([one]) and was_command({"messages": [words, one, result("1")]})
    assert not was_command({"messages": [one, result("1"), words]}) and not was_command({"messages": [one, words, result("1")]})
    assert not was_command({}) and not was_command({"messages": []}) and not was_command([AIMessage("!x")])


def test_what_the_model_does_not_see() -> None:
    shown, hidden, empty, words = HumanMessage("!a", id="1"), HumanMessage("!!b", id="2"), HumanMessage("! ", id="3"), HumanMessage("hi")
    seen = [shown, result("1"), words, AIMessage("!!x")]
    assert for_model([shown, result("1"), hidden, result("2", True), empty, result("3", True), *seen[2:]]) == seen
    assert for_model([hidden]) == []  # also one whose run was broken off


@given(st.lists(st.sampled_from(["!a", "!!a", "!", "hi", "answer", "result"])))
def test_nothing_hidden_is_ever_seen_and_all_else_is(kinds: list[str]) -> None:
    messages: list[AnyMessage] = [
        AIMessage("x") if kind == "answer" else result(None, n % 2 == 0) if kind == "result" else HumanMessage(kind, id=str(n))
        for n, kind in enumerate(kinds)
    ]
    seen = for_model(messages)
    assert [message for message in seen if isinstance(message, AIMessage)] == [one for one in messages if isinstance(one, AIMessage)]
    for message in messages:
        facts = facts_of(message)
        kept_back = bool(facts["hidden"]) if facts is not None else message.content in {"!!a", "!"}
        assert any(message is one for one in seen) is not kept_back
    overtaken, now = pending(messages)
    assert (now is not None) == bool(kinds and kinds[-1].startswith("!"))
    assert all(command.command for command in overtaken)


# --- the words for the model ---


def test_where_the_model_is() -> None:
    vm = Attachment(backend="vers", machine_id="3f2a", cwd="/root/app")
    assert (
        describe(vm, start="/root")
        == "Your tools work on the VM 3f2a, not on the user's own machine; you came to it in /root, and `cd` holds."
    )
    box = Attachment(backend="box", machine_id="c1")
    assert describe(box, limits={"memory": "2g", "network": "none"}, others=["box", "other"]) == (
        "Your tools work on the backend box (c1), not on the user's own machine; `cd` holds. Its limits: memory 2g, network none. "
        "Other places (use_backend): other."
    )
    assert describe(HERE, start="/work").startswith("Your tools work on the user's own machine; you came to it in /work")
    assert "vers_vm_create" in describe(HERE, start="/work", local_allowed=False)
    assert "/work" not in describe(HERE, start="/work", local_allowed=False)
    assert "made for your first call" in describe(None)


def test_words_are_put_behind_the_prompt() -> None:
    assert extended(None, "there").content == "there"
    assert extended(SystemMessage("Be kind."), "there").content == "Be kind.\n\nthere"
    blocks = [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]
    message = extended(SystemMessage(blocks), "there")
    assert message.content == [*blocks, {"type": "text", "text": "there"}]


def test_paths_are_translated_in_text_only() -> None:
    def translate(text: str) -> str:
        return text.replace("/home/me", "/work")

    assert translated(HumanMessage("see /home/me/a", id="1"), translate) == HumanMessage("see /work/a", id="1")
    blocks: Any = ["/home/me", {"type": "text", "text": "/home/me"}, {**IMAGE, "name": "/home/me"}]
    assert translated(HumanMessage(blocks), translate).content == [
        "/work",
        {"type": "text", "text": "/work"},
        {**IMAGE, "name": "/home/me"},
    ]
    same = HumanMessage("nothing")
    assert translated(same, translate) is same
