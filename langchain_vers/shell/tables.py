"""Names of programs, by what they do. Data for `programs.py`, which reads it. Pure."""

from __future__ import annotations

from typing import Literal

TouchMode = Literal["read", "write", "remove", "any"]
"""What a command does to a file; "any" if that depends on a program that is not known."""
Kind = Literal["privilege", "network", "install", "force-push", "discard", "system", "destroy", "variables", "unknown"]
"""Kinds of commands: gaining rights; talking to other machines; installing software; rewriting what others have (`git push --force`);
throwing away work; changing the machine's own settings; destroying it; changing what names mean to the commands behind; not known.
"""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SAID = _names(
    "echo printf test [ [[ true false : expr seq sleep exit return break continue shift wait jobs set shopt pwd dirname basename type "
    "which "
    "whereis date uname id whoami groups hostname nproc arch tty uptime free ps lscpu lsblk lsmod locale getconf getent printenv env cal "
    "umask ulimit times let read unset declare typeset local readonly export logname factor numfmt hash help history dirs bc yes cd chdir "
    "pushd popd command builtin time timeout nice nohup exec coproc eval trap alias unalias getopts w who last lsof pgrep pstree vmstat "
    "iostat tput clear stty xargs gxargs setsid stdbuf ionice taskset (("
)
"""Programs whose arguments are no files, or are not opened. Wrappers are among them: what they run is judged by itself."""
READERS = _names(
    "cat tac head tail less more wc nl grep egrep fgrep zgrep rg ag ls dir vdir stat file diff cmp comm cut sort uniq tr awk gawk mawk sed "
    "find tree du df md5sum sha1sum sha224sum sha256sum sha384sum sha512sum b2sum cksum sum base64 base32 xxd hexdump hd od strings rev "
    "paste "
    "join column fold fmt pr expand unexpand jq realpath readlink zcat bzcat xzcat zstdcat tsort ptx look nm size ldd objdump readelf cloc "
    "tokei shellcheck mapfile readarray source . egrep colordiff sdiff fdfind fd locate exa eza bat batcat"
)
"""Programs that only read what they are given, but for the exceptions in `_writes_after_all`."""
WRITERS: dict[str, tuple[str, int, TouchMode]] = {
    "touch": ("drt", 0, "write"), "mkdir": ("mZ", 0, "write"), "mkfifo": ("mZ", 0, "write"), "mknod": ("mZ", 0, "write"),
    "rmdir": ("", 0, "remove"), "rm": ("", 0, "remove"), "unlink": ("", 0, "remove"), "shred": ("ns", 0, "remove"),
    "truncate": ("rs", 0, "write"), "tee": ("", 0, "write"), "chmod": ("", 1, "write"), "chown": ("", 1, "write"),
    "chgrp": ("", 1, "write"), "setfacl": ("mMxX", 0, "write"), "chattr": ("pv", 1, "write"), "setfattr": ("nvxh", 0, "write"),
    "fallocate": ("lop", 0, "write"), "patch": ("BDdFgioprVYz", 0, "write"), "gzip": ("bS", 0, "write"), "gunzip": ("S", 0, "write"),
    "bzip2": ("", 0, "write"), "bunzip2": ("", 0, "write"), "xz": ("FTM", 0, "write"), "unxz": ("", 0, "write"), "zstd": ("oT", 0, "write"),
    "mktemp": ("p", 0, "write"), "dos2unix": ("", 0, "write"), "black": ("", 0, "write"), "wipe": ("", 0, "remove"), "trash": ("", 0,
    "remove"),
}  # fmt: skip
"""Programs that change what their operands name: their options that take values, the operands in front that are no files, what they do."""
COPIERS = {"cp": "Stt", "ln": "St", "install": "gmoSt", "rsync": "efTB", "scp": "cFiJloPS", "mv": "St", "link": "", "symlink": ""}
OUTPUTS = {
    "sort": ("-o", "--output"), "curl": ("-o", "--output", "--output-dir", "-D", "-c"), "wget": ("-O", "--output-document", "-P", "-o",
    "-a"),
    "gcc": ("-o",), "g++": ("-o",), "cc": ("-o",), "c++": ("-o",), "clang": ("-o",), "clang++": ("-o",), "ld": ("-o",), "go": ("-o",),
    "tree": ("-o",), "git": ("--output", "-o"), "shuf": ("-o", "--output"), "ssh-keygen": ("-f",), "openssl": ("-out", "-keyout"),
    "rustc": ("-o", "--out-dir"), "tar": ("-C", "--directory"), "unzip": ("-d",), "7z": (), "docker": ("-o", "--output"),
    "split": (), "gpg": ("-o", "--output"), "pandoc": ("-o", "--output"), "ffmpeg": (), "tsc": ("--outDir", "--outFile"), "less": ("-o",
    "-O"),
}  # fmt: skip
"""Options whose value is a file or folder that is written."""

BY_KIND: dict[Kind, frozenset[str]] = {
    "privilege": _names(
        "sudo su doas pkexec runuser sg newgrp chroot nsenter unshare setpriv capsh systemd-run machinectl docker podman nerdctl lxc "
        "lxc-attach "
        "ctr crictl visudo sudoedit setcap"
    ),
    "network": _names(
        "curl wget wget2 nc ncat netcat socat ssh scp sftp ftp lftp tftp telnet aria2c http https httpie xh lynx links w3m elinks nmap "
        "masscan "
        "dig nslookup host whois ping ping6 traceroute tracepath mtr rsh rlogin rcp mosh sshfs sshpass ssh-copy-id openssl-s_client axel "
        "youtube-dl yt-dlp rclone s3cmd gsutil gcloud az aws kubectl helm terraform gh glab hub ngrok cloudflared tor torsocks torify "
        "proxychains proxychains4 smbclient ldapsearch snmpwalk mail mailx sendmail mutt irssi tcpdump tshark websocat grpcurl"
    ),
    "install": _names(
        "apt apt-get aptitude dpkg yum dnf rpm zypper pacman yay apk emerge brew port snap flatpak nix-env npx bunx uvx pipx"
    ),
    "system": _names(
        "systemctl service initctl rc-service useradd userdel usermod groupadd groupdel groupmod passwd chpasswd chsh adduser deluser "
        "mount "
        "umount swapon swapoff insmod rmmod modprobe sysctl iptables ip6tables nft ufw firewall-cmd ip ifconfig route crontab at batch "
        "timedatectl hostnamectl localectl update-alternatives ldconfig grub-install update-grub setenforce launchctl defaults"
    ),
    "destroy": _names(
        "mkfs wipefs fdisk sfdisk gdisk sgdisk cfdisk parted partprobe mkswap shutdown reboot halt poweroff init telinit killall5 lvremove "
        "vgremove pvremove mdadm cryptsetup blkdiscard hdparm badblocks debugfs zpool zfs kexec"
    ),
}  # fmt: skip
INSTALLS: dict[str, frozenset[str]] = {
    name: _names(verbs)
    for names, verbs in (
        ("pip pip2 pip3", "install uninstall download wheel"),
        ("uv", "add remove sync pip tool venv python run lock self"),
        (
            "npm pnpm yarn bun cnpm",
            "install i add ci update up upgrade uninstall remove rm un link exec dlx x create init global install-test it",
        ),
        ("gem", "install uninstall update"),
        ("cargo", "install uninstall add update"),
        ("go", "install get"),
        ("conda mamba micromamba", "install create update remove env"),
        ("poetry pdm pipenv hatch rye", "add install update remove sync lock"),
        ("composer", "install require update global"),
        ("bundle bundler", "install update add"),
        ("cpan cpanm luarocks opam raco cabal stack mix rebar3 nimble vcpkg conan", "install get update add"),
        ("corepack", "enable install prepare"),
        ("rustup", "install update default toolchain component target self"),
        ("nvm asdf mise rbenv pyenv sdk", "install use"),
        ("nix", "profile shell run develop"),
    )
    for name in names.split()
}
INSTALL_ALONE = frozenset({"yarn", "bundle", "cpan", "cpanm"})
"""Without arguments they install."""
GIT_READS = _names(
    "status log diff show blame annotate rev-parse rev-list ls-files ls-tree cat-file describe grep shortlog name-rev merge-base diff-tree "
    "diff-index diff-files cherry for-each-ref show-ref check-ignore check-attr count-objects var version help whatchanged range-diff"
)
GIT_NETWORK = _names("clone fetch pull push ls-remote fetch-pack send-pack svn p4 send-email request-pull")
GIT_BELOW = {
    "remote": {"update", "show", "prune"},
    "submodule": {"update", "add", "init"},
    "lfs": {"pull", "push", "fetch"},
    "archive": set(),
}
MEANINGS = _names(
    "PATH IFS CDPATH ENV BASH_ENV BASH_FUNC SHELLOPTS BASHOPTS PROMPT_COMMAND PS0 PS1 PS4 LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT "
    "PYTHONSTARTUP "
    "PYTHONPATH PYTHONHOME PERL5LIB PERL5OPT RUBYOPT RUBYLIB NODE_OPTIONS GIT_SSH GIT_SSH_COMMAND GIT_EXTERNAL_DIFF GIT_PAGER GIT_EDITOR "
    "GIT_ASKPASS GIT_EXEC_PATH GIT_CONFIG GIT_CONFIG_COUNT GIT_CONFIG_GLOBAL GIT_CONFIG_PARAMETERS GIT_PROXY_COMMAND "
    "GIT_SEQUENCE_EDITOR GIT_DIR "
    "PAGER EDITOR VISUAL BROWSER LESSOPEN LESSCLOSE MANPAGER SHELL HOME TMPDIR JAVA_TOOL_OPTIONS DYLD_INSERT_LIBRARIES DYLD_LIBRARY_PATH "
    "MAKEFLAGS MAKEFILES RIPGREP_CONFIG_PATH TAR_OPTIONS SSH_ASKPASS SUDO_ASKPASS GZIP POSIXLY_CORRECT GLOBIGNORE"
)
ARITHMETIC = _names("let test [ [[ declare typeset local export readonly unset read printf mapfile readarray ((")


DESCRIBED: dict[Kind, str] = {
    "privilege": "it gains other rights",
    "network": "it talks to other machines",
    "install": "it installs or removes software",
    "force-push": "it overwrites or deletes what others have",
    "discard": "it throws away work that is not committed",
    "system": "it changes the machine's own settings",
    "destroy": "it can destroy the machine or its data",
}
FORCING = ("--force", "--force-with-lease", "--force-if-includes", "--mirror", "--delete", "--prune")
