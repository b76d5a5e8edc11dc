"""What commands see of this process's environment: what was named, and nothing else."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rigs.examples import many

from langchain_vers._io import run
from langchain_vers.backends.environment import (
    LOCAL_NAMES,
    Environment,
    Secret,
    guest_environment,
    inherited,
    is_sensitive,
    local_environment,
    with_changes,
)
from langchain_vers.backends.local import LocalBackend
from langchain_vers.errors import BadInput

pytestmark = pytest.mark.timeout(900)

KNOWN = ["LC_ALL", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY", "no_proxy", "SSH_AUTH_SOCK", "A", "LC_", "EDITOR"]
NAMES = st.sampled_from([*LOCAL_NAMES, *KNOWN]) | st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True)
VALUES = st.text(st.characters(blacklist_characters="\0"), min_size=4, max_size=10)
HOSTS = st.dictionaries(NAMES.filter(lambda name: "*" not in name), VALUES, max_size=12)
WANTED = st.lists(NAMES, max_size=4)


def names(wanted: list[str], host: dict[str, str]) -> set[str]:
    return {name for name in host for one in wanted if name == one or (one.endswith("*") and name.startswith(one[:-1]))}


@many
@given(HOSTS, WANTED, st.dictionaries(NAMES.filter(lambda name: "*" not in name), VALUES, max_size=3))
def test_nothing_that_was_not_named(host: dict[str, str], wanted: list[str], added: dict[str, str]) -> None:
    guest = guest_environment(host, home="/root", added=added, inherit=wanted)
    passed = names(wanted, host)
    assert guest.keys() == {"PATH", "HOME", "LANG", "TERM"} | passed | added.keys()
    for name, value in guest.items():
        assert value == added.get(name, host[name] if name in passed else value)
    local = local_environment(host, added=added, inherit=wanted)
    assert local.keys() == {"PATH", "TERM"} | names([*LOCAL_NAMES, *wanted], host) | added.keys()
    assert all(value == added.get(name, host.get(name, value)) for name, value in local.items())


@many
@given(HOSTS)
def test_all_is_never_what_looks_like_a_secret(host: dict[str, str]) -> None:
    assert inherited(host, "all") == {name: value for name, value in host.items() if not is_sensitive(name)}


@many
@given(HOSTS, st.dictionaries(st.sampled_from(["X", "Y"]), NAMES.filter(lambda name: "*" not in name).map(Secret), max_size=2))
def test_secrets_have_their_value_of_now_or_are_an_error(host: dict[str, str], added: Environment) -> None:
    missing = [value.name for value in added.values() if isinstance(value, Secret) and value.name not in host]
    if missing:
        with pytest.raises(BadInput, match="|".join(missing)):
            guest_environment(host, home="/", added=added)
        return
    environment = guest_environment(host, home="/", added=added)
    assert all(environment[name] == host[value.name] for name, value in added.items() if isinstance(value, Secret))


SENSITIVE = """
AWS_ACCESS_KEY_ID AWS_PROFILE OPENAI_API_KEY ANTHROPIC_API_KEY VERS_API_KEY GITHUB_TOKEN GH_TOKEN NPM_TOKEN HTTP_PROXY https_proxy
ALL_PROXY no_proxy SSH_AUTH_SOCK SSH_AGENT_PID GPG_AGENT_INFO GOOGLE_APPLICATION_CREDENTIALS AZURE_CLIENT_SECRET KUBECONFIG DATABASE_URL
REDIS_URL PGPASSWORD PGPASSFILE MYSQL_PWD DB_PASS PIP_INDEX_URL PIP_EXTRA_INDEX_URL UV_INDEX_URL DOCKER_HOST DOCKER_CONFIG
DBUS_SESSION_BUS_ADDRESS XAUTHORITY LANGSMITH_API_KEY LANGCHAIN_API_KEY SENTRY_DSN SECRET MY_SECRET_2 JWT PASSWORD GIT_ASKPASS NETRC
HF_TOKEN SLACK_WEBHOOK_URL VAULT_ADDR SESSION_COOKIE APIKEY MYAPIKEY
"""


@pytest.mark.parametrize("name", SENSITIVE.split())
def test_names_of_secrets(name: str) -> None:
    assert is_sensitive(name)


OTHERS = ["LC_ALL", "EDITOR", "VIRTUAL_ENV", "JAVA_HOME", "GOPATH", "CC", "CFLAGS", "KEYBOARD"]


@pytest.mark.parametrize("name", [*(name for name in LOCAL_NAMES if "*" not in name), *OTHERS])
def test_names_of_others(name: str) -> None:
    assert not is_sensitive(name)


@pytest.mark.parametrize("wanted", ["PATH", "", ["*"], ["A=B"], [""], ["1A"], [None], [b"A"], ["A*B"], ["A\0"]])
def test_bad_names_to_inherit(wanted: object) -> None:
    with pytest.raises(BadInput):
        inherited({}, wanted)  # type: ignore[arg-type]
    with pytest.raises(BadInput):
        LocalBackend(inherit=wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize("added", [{"": "x"}, {"A B": "x"}, {"A": "x\0"}, {"A": 1}, {"A": None}, {"A": b"x"}, {1: "x"}])
def test_bad_variables(added: object) -> None:
    with pytest.raises(BadInput):
        LocalBackend(env=added)  # type: ignore[arg-type]


def test_bad_secrets() -> None:
    for name in ("", "A B", "a=b", None):
        with pytest.raises(BadInput):
            Secret(name)  # type: ignore[arg-type]
    for value, says in (("", "not set"), ("abc", "shorter than 4"), ("abcd\0", "NUL")):
        with pytest.raises(BadInput, match=says) as caught:
            guest_environment({"KEY": value}, home="/", added={"A": Secret("KEY")})
        assert not value or value not in str(caught.value)


def test_changes() -> None:
    assert with_changes({"A": "1", "B": "2"}, {"B": None, "C": Secret("X")}) == {"A": "1", "C": Secret("X")}
    with pytest.raises(BadInput):
        with_changes({}, {"A-B": None})


LEAKY = {
    "HTTPS_PROXY": "http://proxy.invalid:3128",
    "OPENAI_API_KEY": "sk-never-seen",
    "AWS_SECRET_ACCESS_KEY": "never-seen-either",
    "SSH_AUTH_SOCK": "/tmp/agent.sock",
    "VERS_API_KEY": "key-that-no-command-sees",
    "OTHER": "harmless",
}
SHOW = "env; tr '\\0' '\\n' </proc/self/environ; tr '\\0' '\\n' </proc/$PPID/environ"


def seen(backend: LocalBackend, command: str = SHOW) -> str:
    return run(backend.exec(command)).tail.decode("utf-8", "surrogateescape")


def test_commands_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in LEAKY.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LC_TIME", "C")
    output = seen(LocalBackend(tmp_path))
    assert not [name for name, value in LEAKY.items() if name in output or value in output]
    found = dict(line.split("=", 1) for line in output.splitlines() if re.match(r"\w+=", line))
    assert (found["PATH"], found["HOME"], found["LC_TIME"]) == (os.environ["PATH"], os.environ["HOME"], "C")
    output = seen(LocalBackend(tmp_path, inherit="all"))
    assert [name for name, value in LEAKY.items() if name in output or value in output] == ["OTHER"]
    output = seen(LocalBackend(tmp_path, inherit=["HTTPS_PROXY"]))
    assert [name for name, value in LEAKY.items() if name in output or value in output] == ["HTTPS_PROXY"]


def test_variables_of_a_backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path, env={"A": "it's $HOME\n\"", "TMPDIR": str(tmp_path), "KEY": Secret("THE_SECRET")})
    with pytest.raises(BadInput, match="THE_SECRET is not set"):
        run(backend.exec("true"))
    monkeypatch.setenv("THE_SECRET", "value of now")
    # No process has it among its arguments, where everybody on the machine could read it.
    listing = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c 'value of no[w]' || true"
    assert seen(backend, f'printf "%s|%s|" "$A" "$KEY"; {listing}') == "it's $HOME\n\"|value of now|0\n"
    assert (tmp_path / f"vers-{os.getuid()}").is_dir()
    assert "value" not in repr(backend.environment)
    # What a call says goes before.
    assert run(backend.exec('printf %s "$A"', env={"A": "b"})).tail == b"b"
