"""Reading shell scripts: every simple command is found, words are what bash makes of them, and nothing raises."""

from __future__ import annotations

import shlex
import shutil
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from langchain_vers.policy import Allow, Deny, Machine, Policy, Request, Rule
from langchain_vers.shell.programs import kinds, known_to_read, touches
from langchain_vers.shell.script import Script
from langchain_vers.shell.syntax import MOST_BYTES, parse

EXAMPLES = 10_000 if settings().max_examples > 50 else 100
"""How many in the full run, and by default."""
CAREFUL = Policy.careful()


def argvs(script: str) -> list[list[str]]:
    return [[str(word) for word in command.words] for command in parse(script).commands]


def names(script: str) -> list[str | None]:
    return [command.name for command in parse(script).commands if command.words]


def decision(script: str, policy: Policy = CAREFUL) -> str:
    """What a policy says of a script by its commands alone, as if no path of it was anything special."""
    return type(policy.decide(Request("bash", {"command": script}, Machine("local"), script=parse(script)))).__name__


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("rm -rf build", ["rm"]),
        ("a && b || c; d & e", ["a", "b", "c", "d", "e"]),
        ("a | b |& c", ["a", "b", "c"]),
        ("(a; b) && { c; d; }", ["a", "b", "c", "d"]),
        ("if a; then b; elif c; then d; else e; fi", ["a", "b", "c", "d", "e"]),
        ("while a; do b; done; until c; do d; done", ["a", "b", "c", "d"]),
        ("for x in $(a) b; do c; done", ["a", "c"]),
        ("for ((i=$(a); i<3; i++)); do b; done", ["a", "b"]),
        ("case $(a) in x) b ;; *) c ;; esac", ["a", "b", "c"]),
        ("f() { a; }; function g { b; }; f", ["a", "b", "f"]),
        ("! a; time b", ["a", "time", "b"]),
        ("x=$(a) y=`b` c", ["a", "b", "c"]),
        ("a $(b $(c `d`))", ["d", "c", "b", "a"]),
        ('a "$(b)" "x $(c "$(d)") y"', ["b", "d", "c", "a"]),
        ("a `echo \\`b\\``", ["b", "echo", "a"]),
        ("a <(b) >(c)", ["b", "c", "a"]),
        ("a ${x:-$(b)} $((1+$(c)))", ["b", "c", "a"]),
        ("a <<E\n$(b)\nE\nc", ["b", "a", "c"]),
        ("a <<'E'\n$(b)\nE\nc", ["a", "c"]),
        ('a <<< "$(b)"', ["b", "a"]),
        ("cat <<E | b\nx\nE", ["b", "cat"]),
        ("bash <<'E'\na; b\nE", ["bash", "a", "b"]),
        ("bash -c 'a; b'", ["bash", "a", "b"]),
        ("sh -ec 'a' x y", ["sh", "a"]),
        ("bash -o pipefail -c 'a'", ["bash", "a"]),
        ("bash <<< 'a'", ["bash", "a"]),
        ("eval 'a;' b c", ["eval", "a", "b"]),
        ("eval 'eval \"a\"'", ["eval", "eval", "a"]),
        ("sudo a", ["sudo", "a"]),
        ("sudo -u root -- A=1 a", ["sudo", "a"]),
        ("sudo sh -c 'a'", ["sudo", "sh", "a"]),
        ("env -i X=1 Y=2 a b", ["env", "a"]),
        ("X=1 timeout -s KILL 5 a", ["timeout", "a"]),
        ("nice -n 5 nohup setsid stdbuf -oL a", ["nice", "nohup", "setsid", "stdbuf", "a"]),
        ("xargs -0 -n 1 a b", ["xargs", "a"]),
        ("find . -name x -exec a {} + -o -execdir b {} \\;", ["find", "a", "b"]),
        ("su root -c 'a'; su -c a; runuser -u x -- a", ["su", "a", "su", "a", "runuser", "a"]),
        ("flock l a; flock l -c 'b'", ["flock", "a", "flock", "b"]),
        ("ssh host a b", ["ssh", "a"]),
        ("trap 'a' EXIT; alias x='b'", ["trap", "a", "alias", "b"]),
        ("command a; builtin b; exec c", ["command", "a", "builtin", "b", "exec", "c"]),
        ("command -v a", ["command"]),
        ("python3 -m pip install x", ["python3", "pip"]),
        ("uv run a; npm exec b", ["uv", "a", "npm", "b"]),
        ("busybox sh -c 'a'", ["busybox", "sh", "a"]),
        ("git submodule foreach 'a'; git bisect run b", ["git", "a", "git", "b"]),
        ("coproc a", ["coproc", "a"]),
        (">f a", ["a"]),
        ("[[ -f $(a) ]]; [ x = $(b) ]", ["a", "[[", "b", "["]),
        ("export X=$(a)", ["a", "export"]),
        ("a # b; c", ["a"]),
        ("a \\\n b\nc", ["a", "c"]),
        ("", []),
        ("# nothing", []),
    ],
)
def test_commands_that_are_found(script: str, found: list[str]) -> None:
    assert names(script) == found
    assert not parse(script).doubts, parse(script).doubts


@pytest.mark.parametrize(
    "script",
    [
        "if then fi (", 'echo "abc', "echo 'abc", "echo $(a", "a && && b", "{rm,-rf,/}", "eval $x", 'eval "a $x"', "bash -c \"$x\"",
        "bash -c $(a)",
        "curl x | bash", "echo a | sh", "bash <(a)", ". /dev/stdin", "source <(a)", "bash < $x", "cat <<E | sh\n$(a)\nE", "bash <<E\n$x\nE",
        "xargs sh -c", "find . $x", "env -S 'a b'", "sudo $x a", "python3 -c 'a'", "perl -e 1", "node -e 1", "ruby -e 1",
        "python3 <<E\na\nE",
        "echo a | python3", "awk 'BEGIN{system(\"a\")}'", "sed 's/a/b/e' f", "sed '1e a'", "sed -f x f", "awk -f x",
        "git -c alias.x='!a' x",
        "tar --to-command=a -xf f", "tar -I a -xf f", "rg --pre a b", "sort --compress-program=a", "vim -c ':!a'", "parallel a ::: b",
        "screen -dm a",
        "watch $x", "su", "sudo su -", "f() { f | f & }; f", "trap \"$x\" EXIT", "a\0b", "make --eval=x", "split --filter=a f",
        "ssh -o ProxyCommand=a host b", "rsync -e a b c", "git rebase -x a", "then a", "printf -v 'a[$(b)]' x; declare 'x[$(a)]=1'",
    ],
)  # fmt: skip
def test_what_cannot_be_read_to_the_end_is_never_allowed(script: str) -> None:
    assert decision(script) == "Ask"
    assert decision(script, Policy.read_only()) == "Deny"


@pytest.mark.parametrize(
    "script",
    [
        "$x", "$(echo rm) -rf /", "${x}m -rf /", "r${x}m y", "rm $x", "git $x", "'r'$x", "PATH=/x ls", "export PATH=/x",
        "LD_PRELOAD=./x ls",
        "env LD_PRELOAD=./x ls", "GIT_SSH_COMMAND=x git status", "BASH_ENV=x bash -c ls", "IFS=/ ls", "a='b[$(rm x)]'; (( a ))",
        "sudo ls", "doas ls", "su -c ls", "docker run x", "curl http://x", "wget x", "nc -l 1", "ssh x ls", "scp a b:", "rsync a b:c",
        "echo >/dev/tcp/x/1",
        "apt install x", "apt-get -y install x", "pip install x", "pip3 install -r r", "python -m pip install x", "npm i", "npm install",
        "yarn",
        "cargo install x", "gem install x", "go install x@latest", "uv pip install x", "uv add x", "brew install x", "npx x",
        "make install",
        "git push -f", "git push --force", "git push --forc origin", "git push --force-with-lease", "git push origin +main",
        "git push origin :main",
        "git push -uf origin main", "git push --mirror", "git push -d origin x", "git -C x push --force", "git push", "git clone x",
        "git fetch",
        "git reset --hard", "git clean -fdx", "git checkout -- .", "git checkout -f", "git branch -D x", "git stash drop", "git restore .",
        "systemctl stop x", "crontab -r", "mkfs.ext4 /dev/sda", "dd if=/dev/zero of=/dev/sda", "shutdown now", "reboot", "kill -9 -1",
        "echo >/dev/sda",
        "timeout 5 sudo ls", "xargs sudo ls", "find . -exec curl x \\;", "bash -c 'sudo ls'", "eval sudo ls", "echo $(sudo ls)",
        "echo `curl x`",
    ],
)  # fmt: skip
def test_what_a_careful_person_wants_to_hear_of(script: str) -> None:
    assert decision(script) == "Ask"
    assert decision(script, Policy.read_only()) == "Deny"


@pytest.mark.parametrize(
    "script",
    [
        "ls -la", "cat a b", "grep -rn 'x y' src | head -20", "git status && git diff HEAD~1", "find . -name '*.py' -type f",
        "echo $HOME; pwd",
        "sed -n '1,20p' f", "sed -n '/a/,/b/p' f | wc -l", "awk '{print $1}' f", "cd src && ls", "for f in a b; do echo \"$f\"; done",
        "test -f x && echo yes || echo no", "[ -d x ]", "[[ $x == y ]]", "head -c 10 f 2>/dev/null", "wc -l <f", "git log --oneline | head",
        "rg -n 'rm -rf /' .", "echo 'rm -rf / && sudo reboot'", "printf '%s\\n' \"$x\"", "sort f | uniq -c | sort -rn", "git show HEAD:f",
        "which python3; python3 --version", "diff <(ls a) <(ls b)", "cat <<'E'\nsudo rm -rf /\nE", "x=1; echo $x", "true # sudo rm",
        "jq .a f",
        "ps aux | grep x", "df -h; du -sh .", "timeout 5 ls", "command -v git", "env | sort", "date +%s", "find . -name x | xargs cat",
    ],
)  # fmt: skip
def test_harmless_scripts_are_let_through(script: str) -> None:
    asked = CAREFUL.decide(Request("bash", {}, Machine("local"), script=parse(script)))
    assert asked == Allow(), asked
    if "python3" not in script:
        assert decision(script, Policy.read_only()) == "Allow"


@pytest.mark.parametrize("script", ["make test", "pytest -q", "npm test", "npm run build", "python3 x.py", "./run.sh", "cargo build",
"go test ./...",
                                    "git add -A && git commit -m 'x'", "mkdir -p a/b", "touch a", "cp a b", "rm -rf build", "pip list",
                                    "tar xf a.tar",
                                    "python -m pytest tests/", "gcc -o a a.c && ./a", "sed -i s/a/b/ f", "chmod +x run.sh",
                                    "uv version"])  # fmt: skip
def test_everyday_work_is_let_through_but_is_not_reading(script: str) -> None:
    asked = CAREFUL.decide(Request("bash", {}, Machine("local"), script=parse(script)))
    assert asked == Allow(), asked
    if script != "pip list":
        assert decision(script, Policy.read_only()) == "Deny"


@pytest.mark.parametrize("script", ["find . -delete", "find . -fprint x", "sort -o x y", "sort -ox y", "uniq a b", "xxd -r a b",
"tree -o x", "less -o x y",
                                    "git diff --output=x", "ls >x", "ls >>x", "echo x | tee y", "date -s x", "hostname x", "cat a &>x",
                                    ">x", "git branch x",
                                    "awk '{print >\"x\"}' y", "sed -n 'w x' y", "sed --in-place s/a/b/ x", "rg --pre=x y",
                                    "git grep -Ox y"])  # fmt: skip
def test_readers_that_write_are_not_taken_for_readers(script: str) -> None:
    assert decision(script, Policy.read_only()) == "Deny"


@pytest.mark.parametrize(
    ("script", "paths"),
    [
        ("rm -rf a ./b", [("a", "remove"), ("./b", "remove")]),
        ("cat a <b >c 2>&1 2>d", [("a", "read"), ("b", "read"), ("c", "write"), ("d", "write")]),
        ("cp a b c/", [("a", "read"), ("b", "read"), ("c/", "write"), ("c/a", "write"), ("c/b", "write")]),
        ("cp -t d a", [("a", "read"), ("d", "write"), ("d/a", "write")]),
        ("mv a b", [("a", "remove"), ("b", "write"), ("b/a", "write")]),
        ("dd if=a of=b", [("a", "read"), ("b", "write")]),
        ("sed -i s/a/b/ f g", [("f", "write"), ("g", "write")]),
        ("tee -a f", [("f", "write")]),
        ("grep x f", [("f", "read")]),
        ("find a b -delete", [("a", "remove"), ("b", "remove")]),
        ("curl -o f x", [("f", "any"), ("x", "any"), ("f", "write")]),
        ("mytool --in=f", [("f", "read")]),
        ("cd a && rm b", [("a/b", "remove")]),
        ("cd a || exit; cd b && rm c", [("a/b/c", "remove")]),
        ("(cd /a); rm b", [("b", "remove")]),
        ("cat ~/a \"$HOME/b\" '~/c'", [("~/a", "read"), ("~/b", "read"), ("~/c", "read")]),
    ],
)
def test_paths_that_are_touched(script: str, paths: list[tuple[str, str]]) -> None:
    from langchain_vers.request import wanted

    found = list(dict.fromkeys((str(word), touch.mode) for touch, word in wanted(parse(script))))
    assert found == paths


def test_after_a_loop_that_moves_nobody_knows_where_it_is() -> None:
    from langchain_vers.request import wanted

    for script in ("while a; do cd ..; done; rm x", "f() { cd $1; }; f a; rm x", "cd $x; rm x", "cd -; rm x", "popd; rm x"):
        assert any(not word.known for touch, word in wanted(parse(script)) if touch.mode == "remove"), script


def test_a_program_of_the_same_name_elsewhere_is_another_one() -> None:
    for script in ("./ls", "bin/cat x", "/tmp/git status", "~/ls"):
        assert decision(script, Policy.read_only()) == "Deny", script
        allowing = Policy(Rule(Allow(), commands=["ls *", "cat *", "git status *"]), default=Deny("no"))
        assert decision(script, allowing) == "Deny", script
    assert decision("/usr/bin/cat x; ls", Policy.read_only()) == "Allow"
    assert decision("./sudo x") == decision("/x/rm $x") == "Ask"


def test_words_in_any_script() -> None:
    assert argvs("écho 'ü ö' \u4f60\u597d{a,b} \U0001f600\u00a0x # ß") == [
        ["écho", "ü ö", "\u4f60\u597da", "\u4f60\u597db", "\U0001f600\u00a0x"]
    ]
    assert argvs("cat <<É\nrm ü\nÉ\nls é") == [["cat"], ["ls", "é"]]
    assert argvs("é=1 rm") == [["é=1", "rm"]]
    assert argvs("echo X{\U000d040b") == [["echo", "X{\U000d040b"]]  # a process that reads this with the grammar alone crashes


def test_limits() -> None:
    assert parse("))" * 30_000).doubts and parse("<<<" * 20_000).doubts
    assert not parse("echo " + "{" * 60_000).commands[0].words[1].known
    assert not parse("echo " + "{a,b" * 15_000).commands[0].words[1].known
    assert parse("sed '" + "\n" * 5_000 + "e' f").doubts and parse("sed '" + " " * 400 + "e' f").doubts
    assert parse('"$(' * 2000 + "a" + ')"' * 2000).doubts
    assert parse("a;" * MOST_BYTES).doubts
    assert parse("a" * (MOST_BYTES + 1)).doubts
    assert parse("(" * 5000 + "a" + ")" * 5000).doubts
    assert parse("$(" * 3000 + "a" + ")" * 3000).doubts
    assert parse("echo " + "{a,b}" * 30).commands
    deep = "a"
    for _ in range(20):
        deep = f"eval {shlex.quote(deep)}"
        if len(deep) > 100_000:
            break
    assert parse(deep).doubts


# --- properties ---

_ANY = st.text(st.characters(codec="utf-8"), max_size=60)
_PIECES = st.lists(
    st.sampled_from(
        [
            "rm",
            "-rf",
            "/",
            "|",
            "||",
            "&&",
            ";",
            "&",
            "(",
            ")",
            "{",
            "}",
            "$(",
            "`",
            "'",
            '"',
            "\\",
            "\n",
            "$x",
            "${",
            "}",
            "$((",
            "))",
            "<<E",
            "E",
            "<<",
            "<<<",
            "<",
            ">",
            ">>",
            ">&",
            "2>&1",
            "&>",
            "if",
            "then",
            "else",
            "fi",
            "for",
            "in",
            "do",
            "done",
            "while",
            "case",
            "esac",
            ";;",
            "function",
            "f()",
            "[[",
            "]]",
            "[",
            "]",
            "!",
            "~",
            "*",
            "?",
            "{a,b}",
            "a=b",
            "$'\\x2f'",
            '$"x"',
            "#",
            "eval",
            "bash",
            "-c",
            "sudo",
            "xargs",
            "find",
            "-exec",
            "{}",
            "+",
            "\t",
            "\r",
            "coproc",
            "time",
            "é",
            "\x00",
            "\x1b",
        ]
    ),
    max_size=25,
).map(" ".join)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.one_of(
        _ANY, _PIECES, st.binary(max_size=40).map(lambda data: data.decode("latin-1")), _PIECES.map(lambda text: text.replace(" ", ""))
    )
)
@example("\ud800")
@example("\x00")
@example("$'\\ud800'")
@example("X{\U000d040b")
def test_reading_never_raises(script: str) -> None:
    read = parse(script)
    assert isinstance(read, Script)
    for command in read.commands:
        kinds(command), touches(command), known_to_read(command), str(command)
    assert decision(script) in {"Allow", "Ask", "Deny"}


def quoted_somehow(draw: st.DrawFn, word: str) -> str:
    """A shell word with this value, written in one of many ways."""
    pieces = []
    rest = word
    while rest:
        size = draw(st.integers(1, len(rest)))
        piece, rest = rest[:size], rest[size:]
        way = draw(st.integers(0, 7)) if "\n" not in piece else 0
        if way == 0:
            pieces.append(shlex.quote(piece))
        elif way == 1:
            pieces.append("".join(f"\\{char}" for char in piece))
        elif way == 2:
            pieces.append('"' + "".join(f"\\{char}" if char in '"\\$`' else char for char in piece) + '"')
        elif way == 3:
            pieces.append("$'" + "".join(f"\\x{ord(char):02x}" for char in piece) + "'")
        elif way == 4:
            pieces.append("$'" + "".join(f"\\{ord(char):03o}" for char in piece) + "'")
        elif way == 5:
            pieces.append("''" + shlex.quote(piece) + '""')
        elif way == 6:
            pieces.append("\\\n".join(f"'{char}'" if char != "'" else "\\'" for char in piece))
        else:
            pieces.append('$"' + "".join(f"\\{char}" if char in '"\\$`' else char for char in piece) + '"')
    return "".join(pieces)


DANGEROUS = [
    ["rm", "-rf", "/"], ["sudo", "reboot"], ["git", "push", "--force"], ["curl", "http://x"], ["pip", "install", "x"], ["dd",
    "of=/dev/sda"],
    ["/bin/rm", "-r", "/etc"], ["mkfs.ext4", "/dev/sda1"], ["apt-get", "install", "-y", "x"], ["nc", "-e", "sh", "x", "1"],
]  # fmt: skip
AROUND = [
    "{}", "true; {}", "true && {}", "false || {}", "{} | cat", "({})", "{{ {}; }}", "if true; then {}; fi", "echo $({})", 'echo "$({})"',
    "echo `{}`",
    "! {}", "! ! {}", "X=1 {}", "time {}", "{} &", "for i in 1; do {}; done", "case x in x) {} ;; esac", "f() {{ {}; }}; f", "cat <({})",
    "echo ${{x:-$({})}}",
    "env X=1 {}", "timeout 5 {}", "nice {}", "nohup {} >/dev/null 2>&1", "command {}", "exec {}", ">/dev/null {}", "{} # comment",
    "# comment\n{}",
    "while {}; do :; done", "echo a | xargs {}", "find . -exec {} \\;", "cat <<E\n$({})\nE", "a=$({})", "x() (\n{}\n)",
    "trap 'true' EXIT; {}",
]  # fmt: skip
NESTED = [
    "bash -c {}",
    "sh -xc {}",
    "eval {}",
    "sudo sh -c {}",
    "bash <<< {}",
    "env X=1 bash -c {}",
    "xargs -I% sh -c {}",
    "trap {} EXIT",
    "ssh host {}",
]


@st.composite
def disguised(draw: st.DrawFn) -> str:
    words = draw(st.sampled_from(DANGEROUS))
    blank = st.sampled_from([" ", "  ", "\t", " \\\n"])
    script = draw(blank).join(quoted_somehow(draw, word) for word in words)
    for _ in range(draw(st.integers(0, 2))):
        if draw(st.booleans()):
            around = draw(st.sampled_from(AROUND))
            if "`" in around and ("`" in script or "\\" in script):
                continue  # in backticks it would have to be written otherwise
            script = around.format(script)
        else:
            script = draw(st.sampled_from(NESTED)).format(quoted_somehow(draw, script))
    return script


def caught(script: str) -> bool:
    read = parse(script)
    if read.doubts:
        return True
    return any(
        kinds(command) or (command.name == "rm" and any(word.text in {"/", "/etc"} for word in command.words)) for command in read.commands
    )


@settings(max_examples=EXAMPLES, deadline=None)
@given(disguised())
@example('"apt"-ge$"t" install -y x')
@example("! ! sudo reboot")
@example("find . -exec X=1 sudo reboot \\;")
@example("timeout 5 X=1 dd of=/dev/sda")
@example('"/bin/r"\\m -r /etc')
def test_a_dangerous_command_is_caught_however_it_is_written(script: str) -> None:
    assert caught(script), script


@st.composite
def word_lists(draw: st.DrawFn) -> tuple[list[str], str]:
    text = st.text(st.characters(min_codepoint=1, max_codepoint=0x7E), min_size=1, max_size=8)
    words = draw(st.lists(text, min_size=1, max_size=4))
    return words, " ".join(quoted_somehow(draw, word) for word in words)


@settings(max_examples=EXAMPLES, deadline=None)
@given(word_lists())
def test_words_are_what_was_quoted(given_: tuple[list[str], str]) -> None:
    words, script = given_
    read = parse(f"echo {script}")
    assert read.doubts or [word.plain for word in read.commands[-1].words[1:]] == words, script


_BASH = shutil.which("bash")


@pytest.mark.skipif(_BASH is None, reason="bash is not on this machine, to compare with")
def test_words_are_what_bash_makes_of_them() -> None:
    """Against bash itself: many small scripts, all told in one run of it."""
    pieces = ["a", "'b c'", '"d"', "\\e", "$'\\t'", "{f,g}", "{1..3}", "''", '""', "~", "\\~", "=", "x=y", "#h", "-", "{", "}", "{i}",
    "{j,}", "\\{k,l}",
              "'{m,n}'", "$'\\0o'", '"\\$p"', '"\\q"', "\\\n", "{r,{s,t}}", "~/u", ",", "a{b,c}d", "%", "-$", "^", "@", "+", ":",
              "$"]  # fmt: skip
    scripts = [f"say {one}{other}" for one in pieces for other in pieces] + [f"say {one} {other}x" for one in pieces for other in pieces]
    program = "say() { printf 'said\\0'; [ $# = 0 ] || printf '%s\\0' \"$@\"; }; HOME='~'; cd /\n"
    program += "".join(f"eval {shlex.quote(script)}; printf '\\n\\0'\n" for script in scripts)
    told = subprocess.run([_BASH or "bash", "-c", program], capture_output=True, check=False, timeout=60).stdout.decode("utf-8", "replace")
    records = told.split("\0")[:-1]
    answers: list[list[str]] = [[]]
    for record in records:
        answers.append([]) if record == "\n" else answers[-1].append(record)
    answers.pop()
    assert len(answers) == len(scripts)
    differing = []
    for script, answer in zip(scripts, answers, strict=True):
        read = parse(script)
        found = [str(word) for word in read.commands[-1].words[1:]] if read.commands else None
        known = not read.doubts and all(word.known for word in read.commands[-1].words)
        if known and answer and found != answer[1:]:
            differing.append((script, found, answer))
    assert not differing, (len(differing), differing[:20])
