"""The pure functions behind the engine `namespaces`."""

from __future__ import annotations

from langchain_vers.embedded.guest import hosts_file
from langchain_vers.embedded.obstacles import remedies


def test_remedies_name_the_setting() -> None:
    fine = {"kernel.unprivileged_userns_clone": "1", "user.max_user_namespaces": "9", "kernel.apparmor_restrict_unprivileged_userns": "0"}
    assert remedies(fine, root=False, overlay=True, missing=[], release=(6, 1)) == []
    bad = {"kernel.unprivileged_userns_clone": "0", "user.max_user_namespaces": "0", "kernel.apparmor_restrict_unprivileged_userns": "1"}
    assert [each.split("`")[1] for each in remedies(bad, root=False, overlay=True, missing=[], release=(6, 1))] == [
        "sysctl -w kernel.unprivileged_userns_clone=1",
        "sysctl -w user.max_user_namespaces=10000",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ]
    assert len(remedies(bad, root=True, overlay=True, missing=[], release=(6, 1))) == 1
    assert "overlay" in remedies(fine, root=True, overlay=False, missing=[], release=(6, 1))[0]
    assert "find" in remedies(fine, root=True, overlay=True, missing=["find"], release=(6, 1))[0]
    assert "5.11" in remedies(fine, root=True, overlay=True, missing=[], release=(5, 10))[0]


def test_hosts_file_changes_one_line() -> None:
    assert hosts_file("127.0.0.1 localhost\n127.0.1.1 old\n10.0.0.1 db\n", "new") == "127.0.0.1 localhost\n10.0.0.1 db\n127.0.1.1\tnew\n"
