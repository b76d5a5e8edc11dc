"""A guest image for Gondolin, put together from registry packages: the SDK's own guest programs and init scripts, Debian's kernel.

The SDK's package carries its guest programs as Zig sources and its init scripts as text, but neither a kernel nor a root file system. The
compiler comes from PyPI (`ziglang`), the kernel from Debian (downloaded, not installed), and the root file system is what this machine's
own `dpkg` has installed of a few packages. All of it is kept in a folder and made again only when one of these changes.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rigs.programs import require

CACHE = Path(tempfile.gettempdir()) / f"langchain-vers-tests-{os.getuid()}"
"""Where everything is kept; decided before a test has a folder for temporary files of its own."""
SDK = "@earendil-works/gondolin@0.12.0"
NODE = "node@24"
ARCHITECTURES = {"x86_64": ("amd64", "x86_64"), "aarch64": ("arm64", "aarch64")}
"""By `uname -m`: what Debian and Gondolin call it."""
PACKAGES = (
    "bash", "coreutils", "findutils", "grep", "sed", "mawk", "util-linux", "procps", "tar", "e2fsprogs", "busybox-static", "base-files",
)  # fmt: skip
LINKS = {"sh": "bash", "awk": "mawk"}
"""Names in /usr/bin that Debian's packages leave to their scripts."""
APPLETS = ("ip", "udhcpc", "modprobe", "switch_root", "mount")
"""What the guest takes from busybox, unless a package brings it."""
MODULES = ("virtio_pci", "virtio_blk", "ext4", "virtio_console", "virtio_net", "virtio_rng", "fuse")
GUEST_PROGRAMS = ("sandboxd", "sandboxfs")

_INIT_SCRIPTS = """
import { writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
const [sdk, folder] = process.argv.slice(2);
const { ROOTFS_INIT_SCRIPT, INITRAMFS_INIT_SCRIPT } = await import(pathToFileURL(`${sdk}/dist/src/alpine/init-scripts.js`));
writeFileSync(`${folder}/init`, ROOTFS_INIT_SCRIPT, { mode: 0o755 });
writeFileSync(`${folder}/initramfs-init`, INITRAMFS_INIT_SCRIPT, { mode: 0o755 });
"""

_BUILD_ID = """
import { pathToFileURL } from "node:url";
const [sdk, input] = process.argv.slice(2);
const { computeAssetBuildId } = await import(pathToFileURL(`${sdk}/dist/src/assets.js`));
console.log(computeAssetBuildId(JSON.parse(input)));
"""

_LEASE = """#!/bin/sh
# udhcpc calls this with what the host's side has answered.
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr flush dev "$interface"
ip addr add "$ip/${mask:-24}" dev "$interface"
[ -z "$router" ] || ip route add default via "${router%% *}" dev "$interface"
: >/etc/resolv.conf
for server in $dns; do echo "nameserver $server" >>/etc/resolv.conf; done
"""


class Programs:
    """The programs that the tests of the Gondolin backend need: Node, the SDK, QEMU, and a guest image."""

    def __init__(self, folder: Path, image: Path) -> None:
        self.node = folder / "npm/node_modules/node/bin/node"
        self.sdk = folder / "npm/node_modules/@earendil-works/gondolin"
        self.image = image


def prepared() -> Programs:
    """Everything that is needed, from the folder where it is kept; tests that lack a program for it are skipped, and fail under CI."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ARCHITECTURES:
        pytest.skip("the guest image is put together from Debian's packages, for x86_64 and aarch64")
    for program, package in (
        ("npm", "npm"),
        (f"qemu-system-{ARCHITECTURES[machine][1]}", "qemu-system-x86 or qemu-system-arm"),
        ("qemu-img", "qemu-utils"),
        ("dpkg-deb", "dpkg"),
        ("depmod", "kmod"),
        ("mke2fs", "e2fsprogs"),
        ("busybox", "busybox-static"),
    ):
        require(program, package)
    folder = CACHE
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} is somebody else's")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install(folder / "npm")
        kernel = _kernel(folder)
        image = folder / f"image-{_version(kernel)}"
        if not (image / "manifest.json").exists():
            programs = Programs(folder, image)
            with tempfile.TemporaryDirectory(dir=folder) as work:
                _build(programs, kernel, ARCHITECTURES[machine][1], Path(work))
        return Programs(folder, image)


def _run(*argv: str | Path, cwd: Path | None = None) -> str:
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    done = subprocess.run(list(map(str, argv)), cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, argv))[:300]} ended with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def _install(folder: Path) -> None:
    """Node and the SDK, from npm. The optional packages are a second virtual machine monitor."""
    wanted = f"{NODE} {SDK}"
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    folder.mkdir(exist_ok=True)
    _run("npm", "install", "--prefix", folder, "--omit=optional", "--no-audit", "--no-fund", NODE, SDK, cwd=folder)
    stamp.write_text(wanted)


def _kernel(folder: Path) -> Path:
    """Debian's kernel for virtual machines, unpacked; the newest that this system's package lists know."""
    debian, _ = ARCHITECTURES[platform.machine()]
    depends = _run("apt-cache", "depends", f"linux-image-cloud-{debian}")
    package = next(line.split()[-1] for line in depends.splitlines() if "Depends: linux-image" in line)
    unpacked = folder / package
    if not unpacked.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            # As root, apt would otherwise want to download as its own user, which cannot write here.
            _run("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", package, cwd=Path(work))
            (archive,) = Path(work).glob("*.deb")
            _run("dpkg-deb", "-x", archive, f"{work}/unpacked")
            release = next(Path(f"{work}/unpacked/lib/modules").iterdir()).name
            _run("depmod", "-b", f"{work}/unpacked", release)
            Path(f"{work}/unpacked").rename(unpacked)
    return unpacked


def _version(kernel: Path) -> str:
    """Changes whenever the image would come out differently."""
    installed = _run("dpkg-query", "-W", "-f", "${Package} ${Version}\n", *(sorted(_closure())))
    return hashlib.sha256(f"{Path(__file__).read_text()} {kernel.name} {SDK} {installed}".encode()).hexdigest()[:12]


def _closure() -> set[str]:
    """PACKAGES and what they depend on, as far as it is installed here."""
    rows = _run("dpkg-query", "-W", "-f", "${Package}\t${db:Status-Abbrev}\t${Pre-Depends}, ${Depends}\n").splitlines()
    depends = {name: text for name, status, text in (row.split("\t") for row in rows) if status.startswith("ii")}
    found: set[str] = set()
    waiting = [package for package in PACKAGES if package in depends]
    while waiting:
        package = waiting.pop()
        if package in found:
            continue
        found.add(package)
        for alternatives in depends[package].split(","):
            names = [name.split()[0].partition(":")[0] for name in alternatives.split("|") if name.strip()]
            waiting.extend([name for name in names if name in depends][:1])
    return {package for package in found if package not in {"debconf", "perl-base", "dpkg", "libc-bin"}}


def _build(programs: Programs, kernel: Path, architecture: str, work: Path) -> None:
    (work / "init-scripts.mjs").write_text(_INIT_SCRIPTS)
    _run(programs.node, work / "init-scripts.mjs", programs.sdk, work)
    guest_programs = _guest_programs(programs.sdk / "dist/guest/src", architecture, programs.image.parent)
    made = work / "image"
    made.mkdir()
    (vmlinuz,) = (kernel / "boot").glob("vmlinuz-*")
    shutil.copy(vmlinuz, made / "vmlinuz")
    _initramfs(kernel, work, made / "initramfs.cpio.gz")
    _root(work, guest_programs, made / "rootfs.ext4")
    _manifest(programs, architecture, made)
    made.rename(programs.image)


def _guest_programs(source: Path, architecture: str, folder: Path) -> Path:
    """Linked to this system's libc, which takes a tenth of the time of compiling musl first."""
    target = f"{architecture}-linux-gnu.2.36"
    made = folder / f"programs-{hashlib.sha256(f'{SDK} {target}'.encode()).hexdigest()[:12]}"
    if made.exists():
        return made
    with tempfile.TemporaryDirectory(dir=folder) as work:
        Path(work, "made").mkdir()
        for program in GUEST_PROGRAMS:
            _run(
                sys.executable, "-m", "ziglang", "build-exe", "-OReleaseSmall", "-target", target, "-lc",
                "--dep", "sandboxd", f"-Mroot={source}/{program}/main.zig", "-lc", f"-Msandboxd={source}/root.zig",
                f"-femit-bin={work}/made/{program}", "--cache-dir", f"{work}/zig", "--global-cache-dir", f"{work}/zig",
            )  # fmt: skip
        Path(work, "made").rename(made)
    return made


def _initramfs(kernel: Path, work: Path, target: Path) -> None:
    """Busybox, the modules that the virtual hardware needs, and the SDK's script that mounts the disk."""
    root = work / "initramfs"
    for folder in ("bin", "sbin", "usr/share/udhcpc", "dev", "etc", "proc", "sys", "run"):
        (root / folder).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin/busybox")
    for applet in _run(root / "bin/busybox", "--list").split():
        (root / "bin" / applet).exists() or (root / "bin" / applet).symlink_to("busybox")
    _lease_script(root)
    _modules(kernel, root)
    script, before = (work / "initramfs-init").read_text(), "modprobe virtio_blk"
    assert before in script
    # In the kernel that the SDK's script is written for, the bus is no module.
    (root / "init").write_text(script.replace(before, f"modprobe virtio_pci || true\n{before}", 1))
    (root / "init").chmod(0o755)
    names = _run("find", ".", cwd=root)
    packed = subprocess.run(["busybox", "cpio", "-o", "-H", "newc"], input=names.encode(), cwd=root, capture_output=True, check=True)
    target.write_bytes(gzip.compress(packed.stdout, 1))


def _modules(kernel: Path, root: Path) -> None:
    base = next((kernel / "lib/modules").iterdir())
    depends = {Path(file).name.partition(".")[0].replace("-", "_"): (file, rest.split()) for file, _, rest in
               (line.partition(":") for line in (base / "modules.dep").read_text().splitlines())}  # fmt: skip
    goal = root / "lib/modules" / base.name
    wanted = [depends[name] for name in MODULES if name in depends]
    for file in sorted({file for name, rest in wanted for file in (name, *rest)}):
        (goal / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(base / file, goal / file)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(base / name, goal / name)
    _run("depmod", "-b", root, base.name)


def _lease_script(root: Path) -> None:
    script = root / "usr/share/udhcpc/default.script"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(_LEASE)
    script.chmod(0o755)


def _root(work: Path, programs: Path, target: Path) -> None:
    root = work / "root"
    root.mkdir()
    for folder in ("bin", "sbin", "lib", "lib64"):  # as Debian has it; dpkg lists many files by the old names
        (root / "usr" / folder).mkdir(parents=True)
        (root / folder).symlink_to(f"usr/{folder}")
    files = _run("dpkg", "-L", *sorted(_closure())).splitlines()
    left_out = tuple(f"/usr/share/{name}" for name in ("doc", "man", "locale", "info", "bash-completion", "lintian"))
    wanted = sorted({name for name in files if name.startswith("/") and not name.startswith(left_out) and Path(name).is_file()})
    listing = work / "files"
    listing.write_text("".join(f"{name}\n" for name in wanted))
    packed = work / "root.tar"
    _run("tar", "-C", "/", "-cPf", packed, "-T", listing)
    _run("tar", "-C", root, "--keep-directory-symlink", "-xf", packed)
    packed.unlink()
    for folder in ("dev", "proc", "sys", "run", "tmp", "root", "home", "etc", "var/tmp", "var/cache", "var/log", "usr/share/udhcpc"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name, program in LINKS.items():
        (root / "usr/bin" / name).exists() or (root / "usr/bin" / name).symlink_to(program)
    for applet in APPLETS:
        if not any((root / "usr" / folder / applet).exists() for folder in ("bin", "sbin")):
            (root / "usr/bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/hostname").write_text("guest\n")
    (root / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
    _lease_script(root)
    for program in GUEST_PROGRAMS:
        shutil.copy(programs / program, root / "usr/bin" / program)
    script, last = (work / "init").read_text(), "exec /usr/bin/sandboxd\n"
    assert script.endswith(last)
    # What it says of each message would go through the emulated serial port, a byte at a time.
    (root / "init").write_text(script.removesuffix(last) + "exec /usr/bin/sandboxd 2>/dev/null\n")
    (root / "init").chmod(0o755)
    _run("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1,nodiscard", "-d", root, target, "1G")


def _manifest(programs: Programs, architecture: str, made: Path) -> None:
    assets = {"kernel": "vmlinuz", "initramfs": "initramfs.cpio.gz", "rootfs": "rootfs.ext4"}
    checksums = {}
    for kind, name in assets.items():
        with (made / name).open("rb") as file:
            checksums[kind] = hashlib.file_digest(file, "sha256").hexdigest()
    script = made.parent / "build-id.mjs"
    script.write_text(_BUILD_ID)
    build_id = _run(programs.node, script, programs.sdk, json.dumps({"checksums": checksums, "arch": architecture})).strip()
    manifest = {
        "version": 1,
        "buildId": build_id,
        "config": {"arch": architecture, "distro": "alpine"},
        "buildTime": "",
        "assets": assets,
        "checksums": checksums,
    }
    (made / "manifest.json").write_text(json.dumps(manifest, indent=1))
