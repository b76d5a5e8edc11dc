"""Where the key comes from and where it must never show; which addresses make sense."""

from __future__ import annotations

import copy
import json
import pickle
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from rigs.certificates import Authority
from rigs.users import folder_of_ordinary_user, ordinary_user
from scripted_api import KEY

from langchain_vers.errors import BadInput, Denied
from langchain_vers.platform import DEFAULT_BASE_URL, Credentials, Endpoints
from langchain_vers.platform.credentials import is_loopback, normalise_base_url, parse_ssh_endpoint


@pytest.fixture
def folder() -> Path:
    path = Path.home() / ".vers"
    path.mkdir()
    return path


def found(credentials: Credentials) -> str:
    return credentials.resolve().value.get_secret_value()


def test_the_key_is_looked_up_in_order_and_anew_each_time(folder, monkeypatch):
    credentials = Credentials()
    with pytest.raises(Denied, match="VERS_API_KEY") as none_yet:
        credentials.resolve()
    assert "log in" in str(none_yet.value)
    (folder / "config.json").write_text(json.dumps({"api_key": "k1"}))
    assert found(credentials) == "k1"
    (folder / "config.json").write_text(json.dumps({"versApiKey": "k2", "api_key": "k1"}))
    assert found(credentials) == "k2"
    (folder / "keys.json").write_text(json.dumps({"keys": {"OTHER": "x"}}))
    assert found(credentials) == "k2"
    (folder / "keys.json").write_text(json.dumps({"keys": {"VERS_API_KEY": "k3"}}))
    assert (found(credentials), credentials.resolve().source) == ("k3", str(folder / "keys.json"))
    monkeypatch.setenv("VERS_API_KEY", "k4\n")
    assert found(credentials) == "k4"
    monkeypatch.setenv("VERS_API_KEY", "")
    assert found(credentials) == "k3"
    assert found(Credentials("k5")) == found(Credentials(SecretStr("k5"))) == "k5"
    keys = iter(["k6", "k7"])
    rotating = Credentials(lambda: next(keys))
    assert [found(rotating), found(rotating)] == ["k6", "k7"]


def test_given_environment_and_home(tmp_path):
    (tmp_path / ".vers").mkdir()
    (tmp_path / ".vers" / "keys.json").write_text(json.dumps({"keys": {"VERS_API_KEY": "from-home"}}))
    assert found(Credentials(environ={}, home=tmp_path)) == "from-home"
    assert found(Credentials(environ={"VERS_API_KEY": "from-env"}, home=tmp_path)) == "from-env"


BROKEN_KEYS = [
    b'{"keys": "hush"}',
    b'{"keys": {"VERS_API_KEY": ""}}',
    b'{"keys": {"VERS_API_KEY": 7}}',
    b'{"keys": {"VERS_API_KEY": "hu sh"}}',
]
BROKEN_CONFIGS = [
    b'{"versApiKey": ""}',
    b'{"api_key": ["hush"]}',
    b'{"versApiKey": "hush\\u0000"}',
    b'{"versApiKey": false, "api_key": "hush"}',
]
BROKEN_FILES = [b"", b'{"versApiKey": "hush', b"[" * 100_000, b"\xff\xfe", b'"hush"', b"[]"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("keys.json", content) for content in BROKEN_KEYS + BROKEN_FILES),
        *(("config.json", content) for content in BROKEN_CONFIGS + BROKEN_FILES),
    ],
)
def test_a_broken_file_is_named_and_not_quoted(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        Credentials().resolve()
    assert str(folder / name) in str(caught.value)
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_unreadable_file_is_denied(monkeypatch):
    with folder_of_ordinary_user() as home, ordinary_user():
        monkeypatch.setenv("HOME", str(home))
        keys = home / ".vers" / "keys.json"
        keys.parent.mkdir()
        keys.write_text(json.dumps({"keys": {"VERS_API_KEY": "k"}}))
        assert found(Credentials()) == "k"
        keys.chmod(0)
        with pytest.raises(Denied, match=r"keys\.json"):
            Credentials().resolve()


def test_a_directory_in_place_of_a_key_file_is_denied(folder):
    (folder / "keys.json").mkdir()
    with pytest.raises(Denied, match=r"keys\.json"):
        Credentials().resolve()


@pytest.mark.parametrize("key", ["", "  ", "a b", "schlüssel", "a\nb", lambda: 7, lambda: ""])
def test_a_key_that_cannot_be_sent(key):
    with pytest.raises(BadInput, match="argument"):
        Credentials(key).resolve()


def test_the_key_never_shows():
    credentials = Credentials(KEY)
    resolved = credentials.resolve()
    for text in (repr(credentials), str(credentials), repr(resolved), str(resolved), f"{credentials}"):
        assert KEY not in text
    for holder in (credentials, Credentials(lambda: KEY), Credentials(environ={"VERS_API_KEY": KEY})):
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(holder)
    assert copy.deepcopy(credentials) is copy.copy(credentials) is credentials
    assert isinstance(pickle.loads(pickle.dumps(Credentials())), Credentials)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://api.vers.sh", DEFAULT_BASE_URL),
        (" https://API.vers.sh:443/api/v1// ", DEFAULT_BASE_URL),
        ("https://vers.example:8443/", "https://vers.example:8443/api/v1"),
        ("https://example.org/vers", "https://example.org/vers/api/v1"),
        ("HTTP://LOCALHOST:80/api/v1", "http://localhost/api/v1"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/api/v1"),
        ("http://127.9.9.9", "http://127.9.9.9/api/v1"),
        ("http://[0:0::1]:81", "http://[::1]:81/api/v1"),
    ],
)
def test_base_urls(text, expected):
    assert normalise_base_url(text) == expected
    assert Endpoints.resolve(environ={"VERS_BASE_URL": text}).base_url == expected
    assert Endpoints.resolve(base_url=text, environ={"VERS_BASE_URL": "nonsense"}).base_url == expected


@pytest.mark.parametrize(
    "text",
    ["", "api.vers.sh", "ftp://api.vers.sh", "https:api.vers.sh", "https://", "https:///api/v1", "//api.vers.sh", "https://hush@api.vers.sh",
     "https://u:hush@api.vers.sh/api/v1", "https://@api.vers.sh", "https://api.vers.sh?key=hush", "https://api.vers.sh/api/v1?", "https://a#",
     "https://a/b#hush", "http://api.vers.sh", "http://127.0.0.1.evil.example", "http://10.0.0.1", "http://0.0.0.0", "http://[::]",
     "https://[::1", "https://[zz]:1", "https://a:99999", "https://a:0", "https://a:x", "https://a b", "https://a/../b", "https://a//b",
     "https://a\\@b", "https://u:hush[@b", "https://a..b", "https://-", "https://a/%2e%2e/x", "https://a\n.b", "https://é.example"],
)  # fmt: skip
def test_nonsense_base_urls_are_refused_without_quoting(text):
    with pytest.raises(BadInput, match="VERS_BASE_URL") as caught:
        Endpoints.resolve(base_url=text, environ={})
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


hosts = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{2,5}){0,2}", fullmatch=True)


@given(hosts, st.none() | st.integers(1, 65535), st.sampled_from(["", "/api/v1", "/x", "/x/api/v1"]), st.text("/", max_size=3))
def test_normalising_base_urls_is_idempotent(host, port, path, slashes):
    text = f"https://{host}{'' if port is None else f':{port}'}{path}"
    once = normalise_base_url(text + slashes)
    assert normalise_base_url(once) == once == normalise_base_url(text)
    assert once.startswith(f"https://{host}")
    assert once.endswith("/api/v1")
    assert once.count("/api/v1") == 1


@given(st.text() | st.text("htps:/@?#[].a0%\\ ").map("http://".__add__))
def test_any_text_is_a_safe_base_url_or_bad_input(text):
    try:
        url = normalise_base_url(text)
    except BadInput:
        return
    assert url.startswith("https://") or is_loopback(urlsplit(url).hostname)
    assert not set("@?#\\ ") & set(url)
    assert normalise_base_url(url) == url


@pytest.mark.parametrize(
    ("text", "expected"),
    [("localhost:2222", ("localhost", 2222)), (" GW.example:443 ", ("gw.example", 443)), ("10.1.2.3:22", ("10.1.2.3", 22)),
     ("[::1]:65535", ("::1", 65535))],
)  # fmt: skip
def test_ssh_endpoints(text, expected):
    assert parse_ssh_endpoint(text) == expected
    assert Endpoints.resolve(environ={"VERS_SSH_ENDPOINT": text}).ssh_endpoint == expected


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", ":22", "host:0", "host:65536", "host:-1", "::1:22", "[::1]", "[host]:22", "u@h:22", "a b:2", "h:٢٢", "h:2/x"],
)
def test_nonsense_ssh_endpoints(text):
    with pytest.raises(BadInput, match="VERS_SSH_ENDPOINT"):
        Endpoints.resolve(ssh_endpoint=text, environ={})


def test_endpoints_without_anything_are_the_defaults():
    assert Endpoints.resolve(environ={}) == Endpoints(DEFAULT_BASE_URL, None, None)
    assert Endpoints.resolve(environ={"VERS_BASE_URL": "", "VERS_SSH_ENDPOINT": "", "VERS_CA_FILE": ""}) == Endpoints()
    assert Endpoints.resolve(ca_file="~/ca.pem", environ={}).ca_file == Path.home() / "ca.pem"
    for bad in ("", "a\0b"):
        with pytest.raises(BadInput, match="VERS_CA_FILE"):
            Endpoints.resolve(ca_file=bad, environ={})


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_a_certificate_file_that_cannot_be_used(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=r"ca\.pem"):
        Endpoints.resolve(ca_file=path, environ={}).ssl_context()


def test_whose_certificates_are_trusted(tmp_path):
    path = Authority(tmp_path).file
    system = Endpoints().ssl_context().cert_store_stats()["x509_ca"]
    both = Endpoints.resolve(ca_file=path, environ={}).ssl_context()
    only = Endpoints.of_embedded("http://127.0.0.1:1", ("127.0.0.1", 2), str(path)).ssl_context()
    assert both.cert_store_stats()["x509_ca"] == system + 1 and only.cert_store_stats()["x509_ca"] == 1
    assert all(context.check_hostname and context.verify_mode == ssl.CERT_REQUIRED for context in (both, only))
