"""What `Backend.exec` owes, as tests: output, ends, directories, input, time limits, background processes, quoting, many at once."""

from __future__ import annotations

import asyncio
import hashlib
import shlex
import string
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from langchain_vers._io import on_io, run
from langchain_vers.backends.base import Backend, ExecResult
from langchain_vers.errors import BadInput, Missing
from langchain_vers.testing.harness import Caller, Conformance, is_text, kill_survivors, shell, survivors, until

# Text that a shell word can hold: all but NUL and what UTF-8 cannot express.
_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=200)
_quick = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))

_TREE = """
sh -c 'echo $$ >child.pid; exec sleep 300' &
setsid sh -c 'echo $$ >session.pid; exec sleep 300' &
( ( sh -c 'echo $$ >orphan.pid; exec sleep 300' & ) )
env -i PATH="$PATH" sh -c 'echo $$ >bare.pid; exec sleep 300' &
env -i PATH="$PATH" setsid sh -c 'echo $$ >hidden.pid; exec sleep 300' &
sh -c 'trap "" TERM INT HUP; echo $$ >stubborn.pid; while :; do sleep 1; done' &
sh -c 'echo $$ >front.pid'
while [ "$(cat *.pid | wc -l)" -lt 7 ]; do :; done
echo started
sleep 300
"""
"""Leaves processes of every kind: in other sessions, without a parent, without the environment, deaf to signals."""


class CommandConformance(Conformance):
    """Tests of `exec`."""

    # --- output ---

    async def test_output_is_merged_in_order_of_arrival(self, backend: Backend, call: Caller) -> None:
        """Standard output and standard error come as one stream, in the order in which they were written."""
        result = await call(backend.exec("for i in 1 2 3 4 5; do echo out$i; echo err$i >&2; done"))
        assert is_text(result, "".join(f"out{i}\nerr{i}\n" for i in range(1, 6)))
        assert (result.exit_code, result.signal, result.timed_out, result.truncated) == (0, None, False, False)

    async def test_output_keeps_every_byte(self, backend: Backend, call: Caller) -> None:
        """Output that is not UTF-8 arrives as it was printed, NUL included, with no line break added at its end."""
        every = bytes(range(256))
        result = await call(backend.exec("".join(["printf '", *(f"\\{byte:03o}" for byte in every), "'"])))
        assert result.tail == every

    async def test_no_output(self, backend: Backend, call: Caller) -> None:
        """A command that prints nothing has empty output, no log, and a duration."""
        result = await call(backend.exec("true"))
        assert (result.tail, result.total_bytes, result.total_newlines, result.log_path) == (b"", 0, 0, None)
        assert 0 < result.duration < 60

    async def test_output_is_streamed_while_the_command_runs(self, backend: Backend, call: Caller, place: str) -> None:
        """The callback gets the first line before the command has ended: the command waits for what the callback sets off."""
        seen: list[bytes] = []
        released: list[asyncio.Task[object]] = []

        async def on_output(data: bytes) -> None:
            seen.append(data)
            if not released:
                released.append(asyncio.get_running_loop().create_task(backend.write(f"{place}/go", b"")))

        command = "echo first; while [ ! -e go ]; do sleep 0.02; done; echo last"
        result = await call(backend.exec(command, cwd=place, timeout=30, on_output=on_output))
        assert not result.timed_out
        assert seen[0] == b"first\n"
        assert b"".join(seen) == b"first\nlast\n" == result.tail

    async def test_callback_gets_all_of_long_output(self, backend: Backend, call: Caller) -> None:
        """The callback gets every byte once and in order, also of output that is longer than what is kept."""
        digest = hashlib.sha256()
        result = await call(backend.exec("seq 1 200000", on_output=digest.update))
        whole = b"".join(b"%d\n" % i for i in range(1, 200001))
        assert digest.hexdigest() == hashlib.sha256(whole).hexdigest()
        assert (result.total_bytes, result.total_newlines) == (len(whole), 200000)

    async def test_long_output_is_bounded_and_logged(self, backend: Backend, call: Caller) -> None:
        """Of long output the last `tail_limit` bytes are kept, the totals are exact, and the whole lies in the log on the machine."""
        result = await call(backend.exec("seq 1 100000"))
        whole = b"".join(b"%d\n" % i for i in range(1, 100001))
        assert result.tail == whole[-backend.tail_limit :]
        assert (result.total_bytes, result.total_newlines, result.truncated) == (len(whole), 100000, True)
        assert result.log_path is not None
        assert (await call(backend.read(result.log_path))).data == whole
        await call(backend.exec(f"rm {shlex.quote(result.log_path)}"))

    async def test_short_output_leaves_no_log(self, backend: Backend, call: Caller) -> None:
        """After a command with little output nothing of it stays on the machine."""
        found = await call(backend.exec("echo $VERS_CALL; echo little"))
        assert found.log_path is None
        mark = found.tail.split()[0].decode()

        async def gone() -> bool:
            return (await call(backend.exec(f"ls -a ${{TMPDIR:-/tmp}}/vers-$(id -u) | grep -c {mark} || true"))).tail == b"0\n"

        if mark != "little":
            await until(gone)

    async def test_output_without_line_breaks(self, backend: Backend, call: Caller) -> None:
        """One line of a megabyte counts as bytes, not as lines."""
        result = await call(backend.exec("head -c 1000000 /dev/zero | tr '\\0' x"))
        assert (result.total_bytes, result.total_newlines) == (1000000, 0)
        assert result.tail == b"x" * backend.tail_limit
        assert result.log_path is not None
        await call(backend.exec(f"rm {shlex.quote(result.log_path)}"))

    # --- ends ---

    @pytest.mark.parametrize("code", [0, 1, 2, 126, 127, 128, 255])
    async def test_exit_code(self, backend: Backend, call: Caller, code: int) -> None:
        """Each exit code is told as it is; none of these is a signal."""
        result = await call(backend.exec(f"exit {code}"))
        assert (result.exit_code, result.signal, result.timed_out) == (code, None, False)

    @pytest.mark.parametrize("number", [1, 2, 9, 15])
    async def test_signal(self, backend: Backend, call: Caller, number: int) -> None:
        """A command that dies of signal n ends with 128 + n, and `signal` says n."""
        result = await call(backend.exec(f"echo before; sh -c 'kill -{number} $$'"))
        assert (result.exit_code, result.signal, result.timed_out) == (128 + number, number, False)
        assert result.tail.startswith(b"before\n")

    @pytest.mark.parametrize("victim", ["$PPID", "0"])
    async def test_shell_that_is_killed_from_within(self, backend: Backend, call: Caller, victim: str) -> None:
        """A command may kill its own shell, or its process group; that is a signal and not a lost connection."""
        result = await call(backend.exec(f"sh -c 'kill -9 {victim}'; sleep 20", timeout=30))
        assert (result.exit_code, result.signal, result.tail) == (137, 9, b"")
        assert result.duration < 15

    async def test_unknown_command(self, backend: Backend, call: Caller) -> None:
        """127, and the shell's message in the output."""
        result = await call(backend.exec("no-such-command-anywhere"))
        assert result.exit_code == 127
        assert b"not found" in result.tail

    async def test_syntax_error(self, backend: Backend, call: Caller) -> None:
        """A command that is no shell text ends with an exit code and a message; the backend goes on working."""
        result = await call(backend.exec("if then fi ("))
        assert result.exit_code not in (0, None)
        assert b"yntax" in result.tail
        assert (await call(backend.exec("echo on"))).tail == b"on\n"

    @pytest.mark.parametrize("command", ["", " \n\t ", "echo a\0b"])
    async def test_impossible_command(self, backend: Backend, call: Caller, command: str) -> None:
        """An empty command, or one with a NUL, is refused before anything runs."""
        with pytest.raises(BadInput):
            await call(backend.exec(command))

    async def test_own_settings_and_traps(self, backend: Backend, call: Caller) -> None:
        """`set -e`, `exec`, and an EXIT trap of the command work as in a shell of its own."""
        assert (await call(backend.exec("set -e; echo one; false; echo two"))).tail == b"one\n"
        assert (await call(backend.exec("exec echo replaced"))).tail == b"replaced\n"
        result = await call(backend.exec("trap 'echo bye' EXIT; echo hi; exit 4"))
        assert (result.tail, result.exit_code) == (b"hi\nbye\n", 4)

    async def test_nothing_of_one_call_is_left_in_the_next(self, backend: Backend, call: Caller) -> None:
        """Variables, functions, options, umask and directory of a command are its own."""
        await call(backend.exec("export LEFT=1; left() { :; }; set -f; umask 0; cd /"))
        result = await call(backend.exec('echo "[$LEFT]"; command -v left; case $- in *f*) echo noglob ;; esac; umask'))
        lines = result.tail.decode().splitlines()
        assert lines[0] == "[]"
        assert len(lines) == 2
        assert int(lines[1], 8) != 0 or lines == ["[]", "0000"]

    # --- directories ---

    async def test_cwd(self, backend: Backend, call: Caller, place: str) -> None:
        """A command starts in `cwd`, and the result tells the directory that it left."""
        result = await call(backend.exec("pwd; mkdir sub; cd sub", cwd=place))
        assert (result.tail.decode(), result.cwd) == (f"{place}\n", f"{place}/sub")

    @pytest.mark.parametrize("ending", ["exit 3", "false", "trap 'echo own' EXIT; exit 5", "exec true", "(exit 2)", "set -e; false"])
    async def test_cwd_is_known_after_any_exit(self, backend: Backend, call: Caller, place: str, ending: str) -> None:
        """The directory that `cd` left is known however the shell ends, other than by `exec` or a trap of its own: then it may be
        unknown.
        """
        result = await call(backend.exec(f"cd /usr; {ending}", cwd=place))
        if "exec" in ending or "trap" in ending:
            assert result.cwd in ("/usr", None)
        else:
            assert result.cwd == "/usr"

    async def test_cwd_with_odd_name(self, backend: Backend, call: Caller, place: str) -> None:
        """Blanks, quotes and letters of any script in a directory's name are kept, both ways."""
        name = f"{place}/- a'b\"$x é"
        await call(backend.write(f"{name}/f", b"1"))
        assert (await call(backend.exec("cat f; cd .", cwd=name))).cwd == name
        assert (await call(backend.read("f", cwd=name))).data == b"1"

    async def test_missing_cwd(self, backend: Backend, call: Caller, place: str) -> None:
        """A `cwd` that does not exist is `Missing`, names it, and nothing runs."""
        with pytest.raises(Missing, match="nowhere"):
            await call(backend.exec(f"touch {place}/ran", cwd=f"{place}/nowhere"))
        with pytest.raises(Missing):
            await call(backend.exec(f"touch {place}/ran", cwd=f"{place}/nowhere", stdin=b"x"))
        assert not (await call(backend.scan(place))).entries

    async def test_stdin_is_kept_nowhere(self, backend: Backend, call: Caller, place: str) -> None:
        """Input may be secret: no file on the machine holds it, neither while the command runs nor when it could not be started."""
        secret = f"secret of {place}".encode()
        # Only files that are new, for a machine may have any number of others.
        find = 'find /tmp "${TMPDIR:-/tmp}" -maxdepth 2 -type f -mmin -2 -exec grep -lsF "$secret" {} + 2>/dev/null; true'
        search = f"secret=$(cat); {find}"

        async def holders() -> set[bytes]:
            found = await call(backend.exec(search, stdin=secret, timeout=60))
            return {line.rpartition(b"/")[2] for line in found.tail.splitlines()}

        assert await holders() == set()
        with pytest.raises(Missing):
            await call(backend.exec("true", cwd=f"{place}/nowhere", stdin=secret))
        assert await holders() == set()
        await call(backend.write(f"{place}/on-purpose", secret))
        assert await holders() == {b"on-purpose"}

    async def test_removed_cwd(self, backend: Backend, call: Caller, place: str) -> None:
        """A command may remove the directory that it runs in."""
        result = await call(backend.exec("mkdir gone && cd gone && rmdir ../gone && echo done", cwd=place))
        assert (result.exit_code, result.tail) == (0, b"done\n")

    # --- environment and input ---

    async def test_env(self, backend: Backend, call: Caller) -> None:
        """Variables arrive as they are given, also those that a shell would otherwise interpret."""
        values = {"A": "", "B_2": " two  words ", "C": "$HOME `id` \\ \" ' !", "D": "line\nbreak\n", "E": "é\U0001f600"}
        result = await call(backend.exec('printf \'%s|\' "$A" "$B_2" "$C" "$D" "$E"; env | grep -c ^C=', env=values))
        assert result.tail.decode() == "|".join(values.values()) + "|1\n"

    @pytest.mark.parametrize("name", ["", "1A", "A-B", "A=B", "A B", "A;id", "A\n"])
    async def test_impossible_variable(self, backend: Backend, call: Caller, name: str) -> None:
        """A name that no shell takes is refused, and is never run as a command."""
        with pytest.raises(BadInput):
            await call(backend.exec("true", env={name: "x"}))

    @pytest.mark.parametrize("data", [b"a", b"no end", b"line\n", bytes(range(256)) * 3, b"'\"$`\\\n" * 50], ids=range(5))
    async def test_stdin(self, backend: Backend, call: Caller, data: bytes) -> None:
        """The command's standard input is exactly what was given, binary included, and then ends."""
        assert (await call(backend.exec("cat", stdin=data, timeout=30))).tail == data

    async def test_large_stdin(self, backend: Backend, call: Caller) -> None:
        """A megabyte of input arrives whole, also if the command takes its time."""
        data = hashlib.sha256(b"seed").digest() * 32768
        result = await call(backend.exec("sleep 0.1; sha256sum", stdin=data, timeout=30))
        assert result.tail.split()[0].decode() == hashlib.sha256(data).hexdigest()

    async def test_unread_stdin(self, backend: Backend, call: Caller) -> None:
        """A command need not read its input, and may end without it."""
        assert (await call(backend.exec("echo done", stdin=b"x" * 300000, timeout=30))).tail == b"done\n"

    @pytest.mark.parametrize("stdin", [None, b""])
    async def test_stdin_is_closed(self, backend: Backend, call: Caller, stdin: bytes | None) -> None:
        """Without input a command reads the end at once, and none reads what is meant for another."""
        assert (await call(backend.exec("cat; read -r x; echo $?", stdin=stdin, timeout=30))).tail == b"1\n"

    async def test_no_terminal(self, backend: Backend, call: Caller) -> None:
        """There is no terminal on any of the three, nor to be opened."""
        command = "for n in 0 1 2; do [ -t $n ] && echo tty; done; if (: </dev/tty) 2>/dev/null; then echo tty; fi; echo end"
        assert (await call(backend.exec(command))).tail == b"end\n"

    # --- time limits and cancellation ---

    @pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
    async def test_impossible_timeout(self, backend: Backend, call: Caller, timeout: float) -> None:
        """Only a finite time greater than 0 is a limit."""
        with pytest.raises(BadInput):
            await call(backend.exec("true", timeout=timeout))

    async def test_timeout_kills_the_whole_tree(self, backend: Backend, call: Caller, place: str) -> None:
        """When the time is up no process of the command is left on the machine, whatever it did to get away; the output so far is kept."""
        started = time.monotonic()
        result = await call(backend.exec(_TREE, cwd=place, timeout=self.patience))
        assert time.monotonic() - started < self.patience + 18
        try:
            assert (result.timed_out, result.exit_code, result.signal) == (True, None, None)
            assert result.tail == b"started\n"
            assert await call(survivors(backend, place)) == []
        finally:
            await call(kill_survivors(backend, place))
        if result.log_path is not None:
            await call(backend.exec(f"rm -f {shlex.quote(result.log_path)}"))

    async def test_timeout_of_a_noisy_command(self, backend: Backend, call: Caller) -> None:
        """A command that never stops printing is stopped all the same, and its log is where the result says."""
        result = await call(backend.exec("while :; do echo noise; done", timeout=0.5))
        assert result.timed_out
        assert result.tail.startswith(b"noise\n") or result.truncated
        assert result.log_path is not None
        await call(backend.exec(f"rm -f {shlex.quote(result.log_path)}"))

    async def test_cancelling_kills_the_whole_tree(self, backend: Backend, place: str) -> None:
        """When the caller is cancelled, the processes are dead before the cancellation goes on."""
        loop, started = asyncio.get_running_loop(), asyncio.Event()

        def on_output(data: bytes) -> None:
            if data:
                loop.call_soon_threadsafe(started.set)

        task = asyncio.create_task(on_io(backend.exec(_TREE, cwd=place, on_output=on_output)))
        try:
            await asyncio.wait_for(started.wait(), self.patience + 18)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await on_io(survivors(backend, place)) == []
        finally:
            await on_io(kill_survivors(backend, place))

    # --- background processes ---

    @pytest.mark.parametrize("redirection", ["", ">log 2>&1", ">log 2>&1 </dev/null"])
    async def test_background_process_lives_on(self, backend: Backend, call: Caller, place: str, redirection: str) -> None:
        """`server &` returns when the command's shell ends, also while the server holds its output; the server goes on running."""
        command = f"sh -c 'echo $$ >it.pid; exec sleep 300' {redirection} & while [ ! -s it.pid ]; do :; done; echo up"
        result = await call(backend.exec(command, cwd=place, timeout=20))
        try:
            assert (result.tail, result.exit_code, result.timed_out) == (b"up\n", 0, False)
            assert result.duration < 10
            assert await call(survivors(backend, place)) == ["it.pid"]
        finally:
            await call(kill_survivors(backend, place))
        if result.log_path is not None:
            await call(backend.exec(f"rm -f {shlex.quote(result.log_path)}"))

    async def test_background_output_goes_to_the_log(self, backend: Backend, call: Caller, place: str) -> None:
        """What a background process prints after its command has ended is not lost: the result says where it goes."""
        command = "(while [ ! -e go ]; do sleep 0.02; done; echo later) & echo now"
        result = await call(backend.exec(command, cwd=place, timeout=20))
        assert result.tail == b"now\n"
        path = result.log_path
        assert path is not None
        await call(backend.write(f"{place}/go", b""))

        async def there() -> bool:
            return (await call(backend.read(path))).data == b"now\nlater\n"

        await until(there)
        await call(backend.exec(f"rm -f {shlex.quote(path)}"))

    # --- text ---

    async def test_huge_command(self, backend: Backend, call: Caller) -> None:
        """A command of 200 KB, longer than an argument may be, runs as it is."""
        body = "".join(f"line {i} $HOME `no` \\x \"'\n" for i in range(8000))
        assert len(body) > 200_000
        result = await call(backend.exec(f"sha256sum <<'EOF'\n{body}EOF\n", timeout=60))
        assert result.tail.split()[0].decode() == hashlib.sha256(body.encode()).hexdigest()

    async def test_every_ascii_character_in_a_command(self, backend: Backend, call: Caller) -> None:
        """No character of a command is changed on the way to the shell."""
        text = "".join(map(chr, range(1, 128)))
        assert (await call(backend.exec(f"printf %s {shlex.quote(text)}"))).tail == text.encode()
        for char in string.punctuation:
            assert (await call(backend.exec(f"printf %s {shlex.quote(char * 2)}"))).tail.decode() == char * 2

    async def test_many_lines_and_comments(self, backend: Backend, call: Caller) -> None:
        """Line breaks, continuations, comments and here-documents mean what they mean in a script."""
        command = "# comment\necho a \\\n  b # c\ncat <<-E\n\tx'\"\n\tE\nfor i in 1 2\ndo\n  echo $i\ndone"
        assert (await call(backend.exec(command))).tail == b"a b\nx'\"\n1\n2\n"

    @_quick
    @given(text=_TEXT)
    @example(text="\n")
    @example(text="\r\n\t\x1b\x7f")
    @example(text="${__n}$__n`$(\\\\n")
    @example(text="-n \U0001f600\u202e\ufeff")
    def test_any_text_as_word(self, backend: Backend, text: str) -> None:
        """Any text, quoted for a shell, comes back unchanged."""
        assert run(backend.exec(f"printf %s {shlex.quote(text)}")).tail == text.encode()

    # --- many at once ---

    @pytest.mark.parametrize("count", [11, 50])
    async def test_many_at_once(self, backend: Backend, call: Caller, count: int) -> None:
        """Commands run side by side, each with its own output and exit code."""

        async def one(number: int) -> ExecResult:
            return await backend.exec(f"for i in 1 2 3; do echo {number}; sleep 0.1; done; exit {number}")

        async def all_of_them() -> list[ExecResult]:
            return await asyncio.gather(*(one(number) for number in range(count)))

        results = await call(all_of_them())
        assert [result.tail.decode() for result in results] == [f"{number}\n" * 3 for number in range(count)]
        assert [result.exit_code for result in results] == list(range(count))

    async def test_a_slow_callback_holds_up_nobody_else(self, backend: Backend) -> None:
        """A callback that waits delays its own command only, not another one on the same backend."""

        async def both() -> bytes:
            gate = asyncio.Event()

            async def wait(_: bytes) -> None:
                await gate.wait()

            slow = asyncio.create_task(backend.exec("seq 1 100000", on_output=wait))
            other = await backend.exec("echo other")
            gate.set()
            result = await slow
            assert result.total_newlines == 100000
            if result.log_path is not None:
                await backend.exec(f"rm -f {shlex.quote(result.log_path)}")
            return other.tail

        assert await on_io(both()) == b"other\n"

    async def test_closing_twice(self, backend: Backend, call: Caller) -> None:
        """`close` may be called twice, and a backend can be used again after it."""
        await call(backend.close())
        await call(backend.close())
        assert (await call(shell(backend, "echo again"))) == "again"
