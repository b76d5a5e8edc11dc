"""How a request fares: statuses, retries, time limits, broken connections, certificates, and a key that never shows."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import logging
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import httpx
import pytest
from blockbuster import blockbuster_ctx
from hypothesis import given
from hypothesis import strategies as st
from scripted_api import KEY, Answer, Drop, Hang, ScriptedApi

from langchain_vers import errors
from langchain_vers.errors import BadInput, DeadlineExceeded, Denied, RateLimited, ServerFault, Unreachable, VersError
from langchain_vers.platform import Credentials, Endpoints, VersClient
from langchain_vers.platform.failures import HIDDEN, Failure, backoff_seconds, may_repeat, parse_retry_after, server_message
from langchain_vers.platform.http import path_segment

VERSION = {"executable_name": "orchestrator", "workspace_version": "1", "git_hash": "abc"}
OK = Answer(200, VERSION)


def client_for(url: str, **options) -> VersClient:
    options = {"timeout": 5.0, "backoff": 0.01, **options}
    return VersClient(Credentials(KEY), Endpoints.resolve(base_url=url, environ={}), **options)


@pytest.mark.parametrize(
    ("status", "kind", "retried"),
    [
        (301, ServerFault, False), (307, ServerFault, False), (400, BadInput, False), (401, Denied, False), (402, Denied, False),
        (403, Denied, False), (404, errors.Gone, False), (405, errors.Unsupported, False), (409, errors.Conflict, False),
        (410, errors.Gone, False), (418, BadInput, False), (422, BadInput, False), (429, RateLimited, True), (500, ServerFault, False),
        (501, errors.Unsupported, False), (502, ServerFault, True), (503, ServerFault, True), (504, ServerFault, True),
        (599, ServerFault, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_statuses(api, client, status, kind, retried, method):
    count = 1 + client.retries if retried else 1
    api.script(*[Answer(status, {"error": f"told {KEY} so", "success": False}, {"Location": "http://127.0.0.1:1/"})] * count)
    with pytest.raises(VersError) as caught:
        await (client.get_version() if method == "GET" else client.validate_key())
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert len(api.requests) == count
    assert KEY not in str(caught.value)
    if status >= 400:
        assert f"told {HIDDEN} so" in str(caught.value)
    keys = {request.headers.get("x-idempotency-key") for request in api.requests}
    assert len(keys) == 1
    assert (keys == {None}) == (method == "GET")
    assert all(request.headers["authorization"] == f"Bearer {KEY}" for request in api.requests)


async def test_401_says_where_the_key_was_looked_up(api, client, monkeypatch):
    api.script(Answer(401), Answer(401))
    with pytest.raises(Denied, match=r"from the api_key argument .*keys\.json"):
        await client.get_version()
    monkeypatch.setenv("VERS_API_KEY", KEY)
    async with VersClient(Credentials(), client.endpoints) as other:
        with pytest.raises(Denied, match="from the environment variable VERS_API_KEY") as caught:
            await other.get_version()
    assert KEY not in str(caught.value)


async def test_two_calls_have_two_idempotency_keys_and_retries_recover(api, client):
    good = Answer(200, {"valid": True, "message": "ok"})
    api.script(Answer(503), Drop(), good, good)
    assert (await client.validate_key()).valid
    assert (await client.validate_key()).valid
    keys = [request.headers["x-idempotency-key"] for request in api.requests]
    assert keys[0] == keys[1] == keys[2] != keys[3]


async def test_the_machine_is_named_in_the_error(api, client):
    api.script(Answer(404, {"error": "VM not found", "success": False}), Answer(200, b"{"))
    with pytest.raises(errors.Gone, match="VM not found") as caught:
        await client.get_vm("vm-1")
    assert caught.value.machine_id == "vm-1"
    with pytest.raises(ServerFault) as fault:
        await client.get_vm("vm-1")
    assert fault.value.machine_id == "vm-1"


async def test_the_key_is_found_anew_for_each_request_and_each_attempt(api):
    keys = iter(["k1", "k2", "k3"])
    async with VersClient(Credentials(lambda: next(keys)), Endpoints.resolve(base_url=api.url, environ={}), backoff=0.01) as client:
        api.script(OK, Answer(502), OK)
        await client.get_version()
        await client.get_version()
    assert [request.headers["authorization"] for request in api.requests] == ["Bearer k1", "Bearer k2", "Bearer k3"]


async def test_without_a_key_nothing_is_sent(api):
    async with VersClient(Credentials(), Endpoints.resolve(base_url=api.url, environ={})) as client:
        with pytest.raises(Denied, match="VERS_API_KEY"):
            await client.get_version()
    assert api.requests == []


@pytest.mark.parametrize(
    ("value", "least"),
    [("0.4", 0.4), ("0", 0), (lambda: email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True), 0.5)],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured(api, client, status, value, least):
    api.script(Answer(status, headers={"Retry-After": value() if callable(value) else value}), OK)
    start = time.monotonic()
    await client.get_version()
    assert time.monotonic() - start >= least


async def test_retry_after_beyond_the_deadline_is_reported_at_once(api):
    async with client_for(api.url, deadline=5.0) as client:
        api.script(Answer(429, b"slow down", {"Retry-After": "60"}))
        start = time.monotonic()
        with pytest.raises(RateLimited, match=r"in 60 s: slow down") as caught:
            await client.get_version()
    assert caught.value.retry_after == 60
    assert time.monotonic() - start < 30  # far from the 60 s that the server asks for, on a busy machine too


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_dropped_connections_are_tried_again_and_then_reported(api, client, method):
    api.script(*[Drop()] * (1 + client.retries))
    with pytest.raises(Unreachable, match="connection broke"):
        await (client.get_version() if method == "GET" else client.validate_key())
    assert len(api.requests) == 1 + client.retries


async def test_a_body_that_breaks_off_is_tried_again(api, client):
    api.script(Answer(200, VERSION, cut_after=5), OK)
    assert (await client.get_version()).git_hash == "abc"


async def test_a_slow_answer_is_tried_again_within_the_deadline(api):
    async with client_for(api.url, timeout=0.2, retries=2) as client:
        api.script(Hang(), OK)
        await client.get_version()
        api.script(Hang(), Hang(b"{"), Hang())  # the second keeps silent in mid-body
        with pytest.raises(DeadlineExceeded, match=r"GET /system/version within 0\.2 s"):
            await client.get_version()
    assert len(api.requests) == 5


async def test_the_deadline_bounds_all_attempts(api):
    async with client_for(api.url, timeout=0.4, deadline=0.6, retries=50) as client:
        api.script(Hang(), Hang())
        with pytest.raises(DeadlineExceeded):
            await client.get_version()
    assert len(api.requests) == 2


async def test_cancelling_ends_the_request(api, client):
    api.script(Hang(), OK)
    task = asyncio.create_task(client.get_version())
    while not api.requests:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await client.get_version()


async def test_nobody_listens():
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        async with client_for(f"http://127.0.0.1:{taken.getsockname()[1]}", retries=1) as client:
            with pytest.raises(Unreachable, match=r"127\.0\.0\.1 could not be reached.*VERS_BASE_URL"):
                await client.get_version()


@pytest.mark.parametrize("body", [b"", b"<html>", b"null", b"[]", b'"x"', b"{", b"\xff", b'{"executable_name": 7}', f'["{KEY}"]'.encode()])
async def test_an_answer_of_the_wrong_shape(api, client, body):
    api.script(Answer(200, body))
    with pytest.raises(ServerFault, match="GET /system/version") as caught:
        await client.get_version()
    assert caught.value.status == 200
    assert KEY not in str(caught.value)
    assert len(api.requests) == 1


async def test_a_redirect_is_not_followed(api, client):
    other = ScriptedApi()
    try:
        api.script(Answer(307, headers={"Location": f"{other.url}/api/v1/system/version"}))
        with pytest.raises(ServerFault, match="HTTP 307, which is not followed"):
            await client.get_version()
        assert other.requests == []
    finally:
        other.close()


async def test_no_proxy_gets_a_loopback_request(api, monkeypatch):
    other = ScriptedApi()
    try:
        monkeypatch.setenv("http_proxy", other.url)
        monkeypatch.setenv("ALL_PROXY", other.url)
        async with client_for(api.url) as client:
            api.script(OK)
            await client.get_version()
        assert other.requests == []
    finally:
        other.close()


async def test_a_closed_client_says_so(api):
    client = client_for(api.url)
    await client.aclose()
    await client.aclose()
    with pytest.raises(BadInput, match="closed"):
        await client.get_version()


async def test_the_key_is_in_no_log_and_no_repr(api, client, caplog):
    caplog.set_level(logging.DEBUG)
    api.script(Answer(500, f"<html><body>oops {KEY}</body></html>".encode()), OK)
    with pytest.raises(ServerFault) as caught:
        await client.get_version()
    await client.get_version()
    assert caplog.records
    assert KEY not in caplog.text
    assert KEY not in repr(client) + str(client) + repr(caught.value)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A certificate authority of our own, and a server's TLS with a certificate from it for 127.0.0.1."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("authority")
    now = datetime.now(UTC)

    def certificate(name, key, issuer, issuer_key, is_authority):
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer or subject).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        )  # fmt: skip
        return builder.sign(issuer_key, hashes.SHA256())

    root_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = certificate("root", root_key, None, root_key, True)
    leaf = certificate("leaf", leaf_key, root.subject, root_key, False)
    (folder / "ca.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    private = leaf_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return folder / "ca.pem", context


@pytest.fixture
def tls_api(authority):
    server = ScriptedApi(tls=authority[1])
    yield server
    server.close()


async def test_tls_with_an_authority_of_our_own(tls_api, authority):
    tls_api.script(OK)
    endpoints = Endpoints.resolve(base_url=tls_api.url, ca_file=authority[0], environ={})
    async with VersClient(Credentials(KEY), endpoints) as client:
        assert (await client.get_version()).git_hash == "abc"


async def test_nothing_blocks_the_loop(tls_api, authority, tmp_path):
    (tmp_path / ".vers").mkdir()
    (tmp_path / ".vers" / "config.json").write_text(json.dumps({"versApiKey": KEY}))
    endpoints = Endpoints.resolve(base_url=tls_api.url, ca_file=authority[0], environ={})
    tls_api.script(Answer(503), OK)
    with blockbuster_ctx("langchain_vers"):
        async with VersClient(Credentials(environ={}, home=tmp_path), endpoints, backoff=0.01) as client:
            assert (await client.get_version()).git_hash == "abc"


async def test_tls_without_it_is_refused_at_once(tls_api):
    async with client_for(tls_api.url, backoff=60.0) as client:
        with pytest.raises(Unreachable, match=r"not trusted.*VERS_CA_FILE"):
            await client.get_version()
    assert tls_api.requests == []


async def test_tls_to_another_name_is_refused(tls_api, authority):
    endpoints = Endpoints.resolve(base_url=tls_api.url.replace("127.0.0.1", "localhost"), ca_file=authority[0], environ={})
    async with VersClient(Credentials(KEY), endpoints, retries=0) as client:
        with pytest.raises(Unreachable):
            await client.get_version()
    assert tls_api.requests == []


# The decisions, without a network


@pytest.mark.parametrize("outcome", [Failure.NOT_SENT, 429])
def test_what_was_not_done_may_be_repeated_by_all(outcome):
    assert may_repeat("POST", False, outcome)


@pytest.mark.parametrize("outcome", [Failure.TIMEOUT, Failure.BROKEN, 502, 503, 504])
def test_what_may_have_been_done_needs_a_key_or_no_effects(outcome):
    assert may_repeat("GET", False, outcome)
    assert may_repeat("POST", True, outcome)
    assert not may_repeat("POST", False, outcome)


@pytest.mark.parametrize("outcome", [Failure.UNTRUSTED, Failure.OTHER, 400, 401, 404, 409, 500, 501])
def test_what_would_fail_again_is_not_repeated(outcome):
    assert not may_repeat("GET", True, outcome)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_backoff_grows_and_is_bounded(attempt, jitter):
    assert 0 < backoff_seconds(attempt, 0.25, jitter) <= 8
    assert backoff_seconds(attempt, 0.25, 0.0) <= backoff_seconds(attempt + 1, 0.25, 0.0)


@pytest.mark.parametrize("value", [None, "", "soon", "-1", "1e3", "inf", "nan", "١٢", "Fri, 99 Nov 2026 12:00:00 GMT", "9" * 50])
def test_what_is_no_retry_after(value):
    assert parse_retry_after(value, datetime.now(UTC)) is None


def test_retry_after():
    now = datetime(2026, 11, 20, 12, tzinfo=UTC)
    assert parse_retry_after(" 7 ", now) == 7
    assert parse_retry_after("Fri, 20 Nov 2026 12:00:09 GMT", now) == 9
    assert parse_retry_after("Fri, 20 Nov 2026 12:00:09 -0000", now) == 9
    assert parse_retry_after("Fri, 20 Nov 2026 11:00:00 GMT", now) == 0


@given(st.text(max_size=60))
def test_retry_after_of_any_text_does_not_fail(text):
    assert (parse_retry_after(text, datetime.now(UTC)) or 0) >= 0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", ""),
        (b'{"error": "no such VM", "success": false}', "no such VM"),
        (b'{"message": "m"}', "m"),
        (b'{"error": {"code": 1}}', '{"error": {"code": 1}}'),
        (b'"text"', "text"),
        (b"plain\n  text\x1b[31m", "plain text?[31m"),
        (b"<!DOCTYPE html><html><head><style>p {}</style></head><body><h1>502</h1> Bad Gateway</body></html>", "502 Bad Gateway"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"x" * 1000, "x" * 299 + "…"),
        (b" " * 65530 + b"hush-hush", ""),
    ],
)
def test_what_a_server_says(body, expected):
    said = server_message(body, "hush-hush")
    assert said == expected or (not expected and said in HIDDEN)
    assert len(said) <= 300


@given(st.text(max_size=400), st.text(max_size=400))
def test_the_key_is_hidden_wherever_it_stands(before, after):
    for body in (f"{before}{KEY}{after}", httpx.Request("POST", "http://x", json={"error": before + KEY + after}).content):
        text = server_message(body if isinstance(body, bytes) else body.encode(errors="replace"), KEY)
        assert KEY not in text
        assert KEY[:12] not in text


@given(st.text(max_size=300) | st.text("./\\%?#;:@ a0", max_size=6))
def test_a_path_segment_is_one_segment_or_bad_input(text):
    with contextlib.suppress(BadInput):
        url = httpx.URL(f"http://h/vm/{path_segment(text, 'VM id')}/status?x")
        assert url.raw_path.count(b"/") == 3
        assert url.path == f"/vm/{text}/status"
        assert url.query == b"x"


@pytest.mark.parametrize(
    "text", ["", ".", "..", "../x", "a/b", "a\\b", "%2e%2e", "a?b", "a#b", "a b", "a\n", "a\0", "\ud800", "x" * 256, "\u202e", None, 7]
)
def test_what_is_no_path_segment(text):
    with pytest.raises(BadInput, match="VM id"):
        path_segment(text, "VM id")


async def test_a_bad_id_sends_nothing(api, client):
    for call in (client.get_vm("../vms"), client.delete_vm(""), client.branch_ref("a/b", "c"), client.delete_env_var("a?b")):
        with pytest.raises(BadInput):
            await call
    assert api.requests == []
