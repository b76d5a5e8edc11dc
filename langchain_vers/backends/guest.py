"""The programs that run on a POSIX machine on our behalf, and how to talk to them. Pure text; `shell.py` does the talking.

A *session* is a shell that is started on the machine before it is needed and then waits for one line on its standard input. The line calls
one of the functions below, so a call costs one round trip: the shell, its functions and the channel are there already. A session serves one
call. It needs a POSIX sh and coreutils (or busybox); where there is bash, bash it is, as agents write bash.

Standard output carries the data. Standard error carries control records, each ended by a NUL: `b` the command has begun, `c<path>` the
directory that it left, `d<code>` its exit status, `r<bytes>` the watcher has let go when so much had been printed, `k` everything has been
killed, `x<reason>` it was not started (`cwd`: there is no such directory, `claimed`: its caller has given up on it, `owner`: another
process has taken over the machine, `paths`: a path of the call is not where it was taken to be).

While a command runs, a watcher in the session reads standard input. The end of that input (the caller closed the channel on a time-out or a
cancellation, or its connection broke) makes it kill every process that carries the session's mark in its environment or belongs to one that
does, so also those that have left the process group. A line instead of the end releases the watcher: background processes of a finished
command live on. Its `r` comes when all that the command itself printed has been passed on, as far as that can be seen.

A transport that can give a program its whole input only at its start (`program`) has the session make a named pipe for the watcher; what it
has to be told is written there by another program (`__vers_tell`), and the end of its input comes when the command's time has long run out.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence

from langchain_vers.backends import guest_processes
from langchain_vers.errors import BadInput

_CHOOSER = 'if command -v bash >/dev/null 2>&1; then exec bash --norc -c "$1"; else exec sh -c "$1"; fi'

KEEP_LINES, KEEP_BYTES = 2000, 50 * 1024
"""A command's log is kept on the machine when the output has more lines or bytes than these: as much as a model is shown of it."""

_FOLDER = r"""
__dir=${TMPDIR:-/tmp}/vers-${EUID:-$(id -u)}
[ -d "$__dir" ] || mkdir -m 700 "$__dir" 2>/dev/null
if [ -L "$__dir" ] || [ ! -O "$__dir" ]; then __dir=$(mktemp -d); fi

"""

_CALLS = r"""
# Only one succeeds for a log: the session that runs its command, or who makes sure that it never will.
__vers_claim() {
  set -C
  true >"$1" || { set +C; [ ! -e "$1" ]; return; }
  set +C
} 2>/dev/null

# $1 is the log, or empty: then $2 is the mark.
__vers_withdraw() {
  if __vers_claim "${1:-$__dir/$2.log}"; then printf '+\n'; else printf '!begun\n'; fi
}

__vers_exec() {
  cd -- "${2:-$HOME}" 2>/dev/null || { printf 'xcwd\0' >&2; exit 0; }
  __log=$__dir/$VERS_CALL.log
  [ -z "$__in" ] || mkfifo -m 600 "$__in" || { printf 'xpipe\0' >&2; exit 0; }
  __vers_claim "$__log" || { rm -f ${__in:+"$__in"}; printf 'xclaimed\0' >&2; exit 0; }
  printf 'b\0' >&2
  __c=$1 __env=$3 __lines=$4 __bytes=$5 __limit=$6
}

# Tell the watcher of mark $1 a line: k, kill the command; r, let go of it. A command that has not begun never will.
__vers_tell() {
  if __vers_claim "$__dir/$1.log"; then return; fi
  [ ! -p "$__dir/$1.in" ] || printf '%s\n' "$2" 1<>"$__dir/$1.in"
}

__vers_fail() {
  printf '!%s\n' "$*"
  exit 0
}

# Whose the machine is and what its content is called: one line of fixed length, "<version> <owner> <seconds>", so that it can be replaced
# in place: another session may be reading it. The age of the file is the owner's silence.
__vers_state() {
  __state=${XDG_STATE_HOME:-$HOME/.local/state}/langchain-vers/machine
}

# Fails if the machine is not $2's. Otherwise it is about to become version $1 (none: only a look), and stays $2's for $3 seconds.
__vers_mine() {
  __vers_state
  IFS=' ' read -r __v __o __s 2>/dev/null <"$__state"
  [ "$__o" = "$2" ] || return 1
  [ -z "$1" ] || printf '%s %s %s\n' "$1" "$2" "$3" 1<>"$__state"
} 2>/dev/null

# Fails unless $HOME is $1, the directory $2 (empty: $HOME) really is $3, and no part of any further path, seen from there, is a symlink.
__vers_straight() {
  [ "$HOME" = "$1" ] || return 1
  __p=$PWD
  cd -P -- "${2:-$HOME}" 2>/dev/null || return 1
  __d=$PWD
  cd -- "$__p"
  [ "$__d" = "$3" ] || return 1
  [ "$__d" != / ] || __d=
  shift 3
  for __p; do
    case $__p in /*) __q= ;; *) __q=$__d ;; esac
    while [ -n "$__p" ]; do
      [ -z "${__p%%/*}" ] || __q=$__q/${__p%%/*}
      [ ! -L "$__q" ] || return 1
      case $__p in */*) __p=${__p#*/} ;; *) __p= ;; esac
    done
  done
}

__vers_look() {
  __vers_state
  [ -f "$__state" ] || { printf '+\n'; return; }
  printf '+%s %s\n' "$(cat "$__state")" "$(($(date +%s) - $(stat -c %Y "$__state")))"
}

__vers_take() {
  __vers_state
  umask 077
  mkdir -p "${__state%/*}" && printf '%s %s %s\n' "$1" "$2" "$3" >"$__state.$$" && mv "$__state.$$" "$__state" || __vers_fail "$__state"
  printf '+\n'
}

__vers_find() {
  cd -- "${2:-$HOME}" 2>/dev/null || __vers_fail cwd
  __p=$1
  case $__p in -*) __p=./$__p ;; esac
  if [ ! -e "$__p" ] && [ ! -L "$__p" ]; then
    __q=$__p
    while [ "$__q" != "${__q%/*}" ]; do
      __q=${__q%/*}
      if [ -e "${__q:-/}" ]; then
        [ -d "${__q:-/}" ] || __vers_fail notdir
        [ -x "${__q:-/}" ] || __vers_fail denied
        break
      fi
    done
    return 1
  fi
}

__vers_stat() {
  __vers_find "$1" "$2" || __vers_fail missing
  if [ -e "$__p" ]; then set -- -L; else set --; fi
  __s=$(stat "$@" -c '%f %s %Y' -- "$__p" 2>&1) || __vers_fail "$__s"
  printf '+%s\n' "$__s"
}

__vers_read() {
  __vers_find "$1" "$2" || __vers_fail missing
  [ ! -d "$__p" ] || __vers_fail isdir
  [ -e "$__p" ] || __vers_fail missing
  [ -f "$__p" ] || __vers_fail notfile
  [ -r "$__p" ] || __vers_fail denied
  __s=$(stat -L -c '%f %s %Y' -- "$__p" 2>&1) || __vers_fail "$__s"
  printf '+%s\n' "$__s"
  if [ "$3" = 0 ] && [ -z "$4" ]; then exec cat <"$__p"; fi
  if [ -z "$4" ]; then exec tail -c "+$(($3 + 1))" <"$__p"; fi
  tail -c "+$(($3 + 1))" <"$__p" | head -c "$4"
}

__vers_write() {
  __vers_find "$1" "$2"
  if [ -L "$__p" ]; then __p=$(readlink -f -- "$__p") || __vers_fail missing; fi
  [ ! -d "$__p" ] || __vers_fail isdir
  case $__p in */) __vers_fail isdir ;; */*) __d=${__p%/*} __d=${__d:-/} ;; *) __d=. ;; esac
  if [ -e "$__p" ]; then
    [ -f "$__p" ] || __vers_fail notfile
    [ -w "$__p" ] || __vers_fail denied
  fi
  if [ ! -d "$__d" ]; then __s=$(mkdir -p -- "$__d" 2>&1) || __vers_fail "$__s"; fi
  [ -w "$__d" ] || __vers_fail denied
  __size=$3 __m=$4 __expect=$5 __own= __fix=
  if [ -e "$__p" ]; then
    set -- $(stat -L -c '%a %u:%g' -- "$__p")
    __m=${__m:-$1}
    if [ ! -O "$__p" ] || [ ! -G "$__p" ]; then __own=$2 __fix=1; fi
  fi
  if [ -n "$__own" ]; then
    umask 077
  elif [ -n "$__m" ]; then
    # The new file is made with the mode that it will have; only bits that a new file never has need a chmod.
    __u=$((0777 & ~0$__m))
    umask "$((__u >> 6))$((__u >> 3 & 7))$((__u & 7))"
    [ $((0$__m & ~0666)) -eq 0 ] || __fix=1
  fi
  __t=$__d/.vers-$VERS_CALL.tmp
  trap 'rm -f -- "$__t"' EXIT
  trap 'exit 1' HUP INT TERM PIPE
  __s=$(trap '' XFSZ; cat 2>&1 >"$__t") || __vers_fail "${__s:-cannot write}"
  [ -z "$__own" ] || chown "$__own" "$__t" 2>/dev/null
  if [ -n "$__fix" ]; then __s=$(chmod "$__m" "$__t" 2>&1) || __vers_fail "$__s"; fi
  __s=$(stat -c '%f %s %Y' -- "$__t" 2>&1) || __vers_fail "$__s"
  set -- $__s
  [ "$2" = "$__size" ] || __vers_fail short
  if [ -n "$__expect" ]; then
    if [ -r "$__d" ] && command -v flock >/dev/null 2>&1; then exec 9<"$__d" && flock 9; fi
    if [ "$__expect" = absent ]; then
      [ ! -e "$__p" ] || __vers_fail changed
    else
      [ -e "$__p" ] || __vers_fail changed
      set -- $(sha256sum <"$__p")
      [ "$1" = "$__expect" ] || __vers_fail changed
    fi
  fi
  __o=$(mv -f -- "$__t" "$__p" 2>&1) || __vers_fail "$__o"
  trap - EXIT
  printf '+%s\n' "$__s"
}

__vers_scan() {
  __vers_find "$1" "$2" || __vers_fail missing
  [ -e "$__p" ] || __vers_fail missing
  [ -d "$__p" ] || __vers_fail notdir
  if [ ! -r "$__p" ] || ! cd -P -- "$__p" 2>/dev/null; then __vers_fail denied; fi
  __depth=
  if [ "$3" = 1 ]; then __depth='-maxdepth 1'; fi
  exec 2>/dev/null
  if find . -maxdepth 0 -printf ''; then
    printf '+z\n'
    find . -mindepth 1 $__depth -name .git -printf '%y %s %P\0' -prune -o -mindepth 1 -printf '%y %s %P\0'
  else
    printf '+l\n'
    find . -mindepth 1 $__depth -name .git -prune -exec stat -c '%F|%s|%n' -- {} + -o -mindepth 1 -exec stat -c '%F|%s|%n' -- {} +
  fi
  printf '\n'
  [ "$4" = 1 ] || return 0
  find . -name .git -prune -o -name .gitignore -type f -print | while IFS= read -r __f; do
    __vers_rules "$__f"
  done
}

__vers_rules() {
  [ -f "$1" ] && [ -r "$1" ] || return 0
  printf '%s\n%s\n' "$1" "$(wc -c <"$1")"
  cat -- "$1"
}

__vers_sweep() {
  __vers_kill "$1"
}

__vers_long() {
  __line=$(head -c "$1")
  eval "$__line"
}

printf 'ready %s %s\n' "$VERS_CALL" "$__dir"
__log= __mine= __in= __hold=
"""

_PREAMBLE = _FOLDER + guest_processes.FUNCTIONS + _CALLS

_WAIT = r"""
IFS= read -r __line || exit 0
eval "$__line"
"""

_COMMAND = r"""
[ -n "$__log" ] || exit 0
if [ -n "$__in" ]; then
  sleep "${__limit:-2147483647}" >"$__in" 2>/dev/null &
  __hold=$!
  exec 0<"$__in"
fi

# A command runs here and not in a function, so that bash's messages about it begin as if it had been called by itself.
# Neither the input nor the control descriptor is inherited by the command: a server that it leaves behind must hold nothing of the channel.
exec 7<&0 0</dev/null 8>&2 2>/dev/null
(
  exec >/dev/null
  if IFS= read -r __v <&7 && [ "$__v" != k ]; then __vers_settle; printf 'r%s\0' $(wc -c <"$__log") >&8; exit 0; fi
  __vers_kill "$VERS_CALL" $$
  rm -f "$__log.cwd" ${__in:+"$__in"}
  printf 'k\0' >&8
) &
__w=$!
{
  (
    exec 2>&1 7<&- 8>&-
    trap 'printf "%s\n" "$PWD" 2>/dev/null >"$__log.cwd"' EXIT
    eval "$__env"
    eval "$__c"
  )
  __x=$?
  # From here on the owner may be silent for a shorter time.
  [ -z "$__mine" ] || __vers_mine $__mine
  __q=
  if [ -s "$__log.cwd" ] && IFS= read -r __q <"$__log.cwd"; then printf 'c%s\0' "$__q" >&8; fi
  printf 'd%s\0' "$__x" >&8
} | (
  exec 7<&- 8>&-
  trap '' PIPE
  exec tee -a "$__log"
)
kill -9 $__w $__hold
wait $__w
__v=$?
exec >/dev/null 8>&-
rm -f "$__log.cwd" ${__in:+"$__in"}
# A watcher that was not killed had let go before: the caller knows of the log, as background processes went on writing to it.
[ "$__v" -ne 0 ] || exit 0
set -- $(wc -lc <"$__log")
if [ "${1:-0}" -le "$__lines" ] && [ "${2:-0}" -le "$__bytes" ]; then rm -f "$__log"; fi
exit 0
"""


def boot(call: str) -> str:
    """The command that starts a session, for any login shell. `call` is its mark: letters and digits, used once.

    It stays short, for it is what `ps` shows; the functions follow as `preamble` on its standard input.
    """
    # head, because a shell reads its input byte by byte: 20 ms for the functions. Busybox's may take more than it is told to, but nothing
    # else is sent before they answer.
    # No line break and no single quote in it: a csh takes neither within quotes.
    read = f'__n=$(printf "\\nx"); __n=${{__n%x}}; eval "$(head -c {len(_FIRST)})"'
    return f"exec env VERS_CALL={call} sh -c {shlex.quote(_CHOOSER)} sh {shlex.quote(read)}"


def parse_ready(output: bytes, call: str) -> str | None:
    """The folder of logs that a session named when it was ready, None if it has not said so yet. Login scripts may have printed before."""
    _, found, rest = output.partition(f"ready {call} ".encode())
    folder, ended, _ = rest.partition(b"\n")
    return folder.decode("utf-8", "surrogateescape") if found and ended else None


_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "$": "\\$", "`": "\\`", "\n": "${__n}"})


def quote(text: str) -> str:
    """A shell word with this value on a single line; `$__n` of the session stands for the line breaks."""
    return '"' + text.translate(_ESCAPES) + '"'


def preamble() -> bytes:
    """What a session is sent first, before it is needed: its functions, and the wait for the call."""
    return _FIRST


def call(function: str, *words: str | int | None) -> bytes:
    """The line that makes a waiting session run one of its functions. None is the empty word.

    Raises:
        BadInput: a word has half of a surrogate pair.
    """
    line = " ".join([f"__vers_{function}", *(quote("" if word is None else str(word)) for word in words)])
    try:
        return line.encode("utf-8", "surrogateescape") + b"\n"
    except UnicodeEncodeError:
        raise BadInput("the call contains half of a surrogate pair, which is no character; nothing was done: give whole ones") from None


def guarded(line: bytes, version: str | None, owner: str, seconds: int, *, command: bool, after: int = 0) -> bytes:
    """The same call for a machine that must be `owner`'s; `version` is what its content is called from now on, None: it stays.

    The owner may be silent for `seconds` while it runs, and for `after` once a command has ended.
    """
    guard = call("mine", version, owner, f"{min(seconds, 999_999):06d}").rstrip(b"\n")
    mine = f"__mine='{version} {owner} {min(after, 999_999):06d}'; ".encode() if command and version is not None else b""
    return guard + _or_refuse("owner", command) + mine + line


def straight(line: bytes, home: str, given: str | None, cwd: str, paths: Sequence[str], *, command: bool) -> bytes:
    """The same call for a machine where `$HOME` is `home`, `given` is really at `cwd`, and no part of these paths is a symlink."""
    return call("straight", home, given, cwd, *paths).rstrip(b"\n") + _or_refuse("paths", command) + line


def _or_refuse(reason: str, command: bool) -> bytes:
    """What follows a check: the end of the session if it fails."""
    return f" || {{ printf 'x{reason}\\0' >&2; exit 0; }}; ".encode() if command else f" || __vers_fail {reason}; ".encode()


def program(line: bytes) -> tuple[list[str], str]:
    """The arguments and the text for standard input that make one call, for a transport that has no more to give a program than these.

    The text is base64, as the line may hold bytes that are no text. Such a transport may not have set HOME either.
    """
    opening = b'__n=\'\n\'\n: "${HOME:=$(eval echo "~$(id -un)")}"\nexport HOME\n'
    text = base64.b64encode(opening + _PREAMBLE.encode() + b"__in=$__dir/$VERS_CALL.in\n" + line + _COMMAND.encode())
    return ["/bin/sh", "-c", _CHOOSER, "sh", 'eval "$(base64 -d)"'], text.decode()


def fed(line: bytes, payload: bytes) -> bytes:
    """The same call with what it reads from its standard input, for `program`."""
    return b"base64 -d <<'__END' | { " + line.rstrip(b"\n") + b"; }\n" + base64.b64encode(payload) + b"\n__END\n"


def fed_by(line: bytes, files: Sequence[str]) -> bytes:
    """The same call with these files, which it removes, on its standard input, for `program`."""
    names = " ".join(map(shlex.quote, files)).encode()
    return b"{ cat " + names + b"; rm -f " + names + b"; } | { " + line.rstrip(b"\n") + b"; }\n"


def shortened(line: bytes) -> bytes:
    """The same call in the form that a session takes in fastest; only for calls behind which nothing is sent before they answer."""
    return line if len(line) < _LONG_LINE else f"__vers_long {len(line)}\n".encode() + line


def exports(env: dict[str, str]) -> str:
    """Shell text that sets these variables for a command."""
    return "; ".join(f"export {name}={shlex.quote(value)}" for name, value in env.items())


_FIRST = (_PREAMBLE + _WAIT + _COMMAND).encode()
_LONG_LINE = 1024
"""Bytes of a call from which starting a program to read it costs less than reading it byte by byte."""

RELEASE = b"r\n"
"""Sent to a session whose command has finished but left processes behind that hold its output: they live on."""
