"""The public names are a promise: a change here is a change for users, and wants a line in the changelog."""

import langchain_vers


def test_public_names() -> None:
    assert sorted(langchain_vers.__all__) == [
        "Attachment",
        "Backend",
        "BackendContext",
        "BubblewrapBackend",
        "DockerBackend",
        "GondolinBackend",
        "LayeredBubblewrapBackend",
        "LocalBackend",
        "Mount",
        "Policy",
        "SSHBackend",
        "SeatbeltBackend",
        "Secret",
        "Snapshots",
        "VersBackend",
        "VersClient",
        "VersError",
        "VersMiddleware",
        "VersSaver",
        "VersToolkit",
        "on_branch",
        "user_commands",
    ]
    for name in langchain_vers.__all__:
        assert getattr(langchain_vers, name).__module__.startswith("langchain_vers.")
