"""The escape suite over GondolinBackend, in a real micro-VM whose workspace is a folder of this machine. It takes minutes, as QEMU runs the
guest without KVM.

What a guest can do to its folders that no program in it does is tried on the host's side of them, by Node and without a guest.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rigs.gondolin import Gondolin

from langchain_vers._io import on_io, run
from langchain_vers.backends import gondolin_machine, sessions
from langchain_vers.backends.base import Backend
from langchain_vers.backends.gondolin import Egress, GondolinBackend
from langchain_vers.testing import host
from langchain_vers.testing.escapes import Bounds, EscapeConformance, MiB
from langchain_vers.testing.harness import shell

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
GROWTH = 64 * MiB


@pytest.fixture(scope="module")
def machine(gondolin: Gondolin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GondolinBackend]:
    backend = gondolin.backend(tmp_path_factory.mktemp("workspace"), growth=GROWTH)
    with pytest.MonkeyPatch.context() as patch:
        # On a machine that is busy with other tests, an emulated processor gets little done.
        patch.setattr(sessions, "ANSWER_SECONDS", 120.0)
        patch.setattr(sessions, "KILL_SECONDS", 60.0)
        yield backend
        run(backend.delete())


class TestEscapes(EscapeConformance):
    patience = 45.0

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, machine: GondolinBackend, secret_variable: str) -> Backend:
        return machine

    @pytest.fixture
    def bounds(self) -> Bounds:
        # Half of what a kernel with 256 MB lets there be, and most of the image's disk.
        return Bounds(processes=900, disk=640 * MiB)

    async def test_symlinks_in_the_workspace_do_not_lead_out(self, backend: Backend) -> None:
        """The same where the symlinks lie on this machine."""
        place = f"/workspace/{host.new_mark()}"
        await on_io(shell(backend, f"mkdir {place}"))
        await self.test_symlinks_do_not_lead_out(backend, place)

    async def test_the_guest_keeps_its_own_programs(self, backend: Backend) -> None:
        """Whatever a command kills, the mounted folder is still served, and calls that waited their turn are answered."""
        await on_io(backend.write("kept", b"kept"))
        for victims in ("0", "-- -1"):
            assert (await on_io(backend.exec(f"sh -c 'kill -9 {victims}; kill -9 {victims}'; sleep 600", timeout=60))).exit_code == 137
            assert (await on_io(backend.read("kept"))).data == b"kept"

    async def test_what_has_lost_its_parent_is_reaped(self, backend: Backend) -> None:
        left = "for n in 1 2 3 4 5; do (sh -c ': orphan' &); done; while grep -qs orphan /proc/[0-9]*/cmdline; do :; done"
        assert await on_io(shell(backend, f"{left}; grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null; true")) == ""


class TestWithANetwork:
    async def test_listeners_of_this_machine_are_out_of_reach(self, gondolin: Gondolin) -> None:
        """Also where some host may be reached: it is another one."""
        listener = host.Listener()
        backend = gondolin.backend(egress=Egress(hosts=["example.test"]))
        try:
            tried = await on_io(backend.exec(host.reaching(listener, host.own_addresses(), host.new_mark()), timeout=120))
            assert tried.tail == b"tried\n"
            assert listener.visits() == []
        finally:
            await on_io(backend.delete())
            listener.close()


_FOLDER = """
import * as fs from "node:fs";
import { pathToFileURL } from "node:url";
const [sdkFolder, bridge, root, outside, mode] = process.argv.slice(2);
const sdk = await import(pathToFileURL(`${sdkFolder}/dist/src/index.js`));
const { folderProvider } = await import(pathToFileURL(bridge));
const folder = mode === "sdk" ? new sdk.RealFSProvider(root) : folderProvider(sdk, root, 1 << 20);
"""
_STALE = """
await folder.symlink(outside, "/d");
const tries = {
  lstat: () => folder.lstat("/d/secret"),
  stat: () => folder.stat("/d/secret"),
  access: () => folder.access("/d/secret", 4),
  readdir: () => folder.readdir("/d"),
  readlink: () => folder.readlink("/d/link"),
  read: () => folder.open("/d/secret", "r"),
  write: () => folder.open("/d/secret", "w"),
  make: () => folder.open("/d/new", "w"),
  mkdir: () => folder.mkdir("/d/new", {}),
  symlink: () => folder.symlink("target", "/d/new"),
  link: () => folder.link("/d/secret", "/mine"),
  linkTo: () => folder.link("/own", "/d/new"),
  rename: () => folder.rename("/d/secret", "/mine"),
  unlink: () => folder.unlink("/d/secret"),
  rmdir: () => folder.rmdir("/d/folder"),
  truncate: () => folder.truncate("/d/secret", 0),
  above: () => folder.lstat("/../secret"),
  through: () => folder.open("/l", "r+"),
};
await folder.symlink(`${outside}/secret`, "/l");
await (await folder.open("/own", "w")).close();
for (const [name, attempt] of Object.entries(tries)) {
  try {
    await attempt();
    console.log(name);
  } catch (error) {
    if (!(error.errno !== undefined && error.code)) throw error;
  }
}
"""
_RACE = """
// A folder and a symlink change names while a file in the folder is being opened.
let seen = 0;
fs.mkdirSync(`${root}/d`);
fs.writeFileSync(`${root}/d/secret`, "own");
fs.symlinkSync(outside, `${root}/s`);
for (let n = 0; n < Number(process.argv[7]) && seen === 0; n++) {
  const reading = folder.open("/d/secret", "r").then(async (handle) => {
    const { buffer } = await handle.read(Buffer.alloc(3), 0, 3, 0);
    await handle.close();
    return buffer.toString();
  }, () => "");
  const moves = [folder.rename("/d", "/e"), folder.rename("/s", "/d")].map((one) => one.catch(() => {}));
  if ((await reading) === "top") seen += 1;
  await Promise.all(moves);
  if (fs.existsSync(`${root}/e`)) {
    if (fs.lstatSync(`${root}/d`, { throwIfNoEntry: false })) fs.renameSync(`${root}/d`, `${root}/s`);
    fs.renameSync(`${root}/e`, `${root}/d`);
  }
}
console.log(seen);
"""
_GROWTH = """
const MiB = 1 << 20;
const write = async (path, bytes) => {
  const handle = await folder.open(path, "a");
  let written = 0;
  try {
    for (; written < bytes; written += 65536) await handle.write(Buffer.alloc(65536, 1), 0, 65536, null);
  } catch (error) {
    if (error.code !== "ENOSPC") throw error;
  }
  await handle.close();
  return written;
};
const nearly = (bytes) => bytes <= MiB && bytes > 0.8 * MiB;
const results = [];
const busy = await folder.open("/busy", "w");
const writing = [0, 1, 2, 3].map((n) => busy.write(Buffer.alloc(1000, 1), 0, 1000, n * 1000));
await Promise.all([busy.close(), busy.close()]); // after what was begun
results.push((await Promise.all(writing)).every(({ bytesWritten }) => bytesWritten === 1000));
results.push(await busy.read(Buffer.alloc(1), 0, 1, 0).then(() => false, (error) => error.code === "EBADF"));
await folder.unlink("/busy");
results.push(nearly(await write("/a", 4 * MiB)));
results.push((await write("/a", MiB)) === 0);
const handle = await folder.open("/a", "r+");
await handle.write(Buffer.alloc(65536, 2), 0, 65536, 0); // replaces bytes
await folder.unlink("/a"); // which is open: its blocks are still taken
results.push((await write("/b", MiB)) <= 65536);
await handle.close();
results.push(nearly((await write("/b", 4 * MiB)) + 65536));
await folder.truncate("/b", 0);
results.push(nearly(await write("/c", 4 * MiB)));
await folder.rename("/b", "/c"); // takes its place
results.push(nearly(await write("/d", 4 * MiB)));
await folder.unlink("/d");
const holes = await folder.open("/holes", "w");
await holes.truncate(MiB / 2);
for (const attempt of [() => holes.truncate(2 * MiB), () => holes.write(Buffer.alloc(1), 0, 1, 2 * MiB)]) {
  results.push(await attempt().then(() => false, (error) => error.code === "ENOSPC"));
}
await holes.write(Buffer.alloc(65536, 1), 0, 65536, 0);
results.push((await write("/more", MiB)) < MiB / 2);
await holes.close();
await folder.unlink("/more");
await folder.unlink("/holes");
let names = 0;
try {
  for (; names < 5000; names++) await folder.mkdir(`/n${names}`, {});
} catch (error) {
  if (error.code !== "ENOSPC") throw error;
}
results.push(names < 1100);
console.log(results.join(" "));
"""


class TestTheHostsSideOfAFolder:
    @pytest.fixture
    def outside(self, tmp_path: Path) -> Path:
        outside = tmp_path / "outside"
        (outside / "folder").mkdir(parents=True)
        (outside / "secret").write_text("top")
        (outside / "link").symlink_to("secret")
        return outside

    def node(self, gondolin: Gondolin, script: str, tmp_path: Path, outside: Path, mode: str = "ours", *words: str) -> str:
        (tmp_path / "script.mjs").write_text(_FOLDER + script)
        (tmp_path / "root").mkdir()
        programs = gondolin.programs
        folders = gondolin_machine.BRIDGE.with_name("gondolin_folders.mjs")
        argv = [programs.node, tmp_path / "script.mjs", programs.sdk, folders, tmp_path / "root", outside, mode, *words]
        done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def test_no_part_of_a_path_is_a_symlink(self, gondolin: Gondolin, tmp_path: Path, outside: Path) -> None:
        """As it can come to be when the guest remembers a folder where there is a symlink by now."""
        before = sorted(path.name for path in outside.iterdir())
        assert self.node(gondolin, _STALE, tmp_path, outside) == ""
        assert (outside / "secret").read_text() == "top" and sorted(path.name for path in outside.iterdir()) == before

    @pytest.mark.parametrize("mode", ["ours", "sdk"])
    def test_a_folder_is_swapped_for_a_symlink_while_it_is_used(self, gondolin: Gondolin, tmp_path: Path, outside: Path, mode: str) -> None:
        """Nothing is read through it; as the SDK does it by itself, a file of this machine is read, which shows that this is a race."""
        assert self.node(gondolin, _RACE, tmp_path, outside, mode, "20000") == ("1" if mode == "sdk" else "0")

    def test_it_grows_no_further_than_it_may(self, gondolin: Gondolin, tmp_path: Path, outside: Path) -> None:
        assert set(self.node(gondolin, _GROWTH, tmp_path, outside).split()) == {"true"}
        assert not (tmp_path / "root/a").exists()
