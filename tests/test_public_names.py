"""The public names are a promise: a change here is a change for users, and wants a line in the changelog."""

import langchain_vers


def test_public_names() -> None:
    assert sorted(langchain_vers.__all__) == [
        "Attachment",
        "Backend",
        "BackendContext",
        "Branches",
        "BubblewrapBackend",
        "Budget",
        "DockerBackend",
        "Exploration",
        "GondolinBackend",
        "LayeredBubblewrapBackend",
        "LocalBackend",
        "Machine",
        "Mount",
        "Policy",
        "SSHBackend",
        "SeatbeltBackend",
        "Secret",
        "Snapshots",
        "Trial",
        "VersBackend",
        "VersClient",
        "VersError",
        "VersMiddleware",
        "VersSaver",
        "VersToolkit",
        "aexplore",
        "agolden",
        "explore",
        "golden",
        "on_branch",
        "user_commands",
    ]
    for name in langchain_vers.__all__:
        assert getattr(langchain_vers, name).__module__.startswith("langchain_vers.")
