"""A host without docker: where things are in the login's home, and the scripts of a POSIX shell that do what is to be
done there. Each is run with the arguments that its comment names.

bundle/          a mirror of all that the environment is made of, see `jingxiang.commands.bundle`
toolkit/         what `setup` needs; with its own .venv
home/, store/    environments and models; files by their digest
versions/NAME/   src/ (the code), environment, image, settings, port; while it runs: pid, keeper, log; then: code
proxy/           caddy, its configuration and data
outputs/         pictures, videos, and the jobs
passwords        0600
held             who deploys now: a link that leads nowhere, made with what it says or not at all
releases.json    what was deployed
"""

from __future__ import annotations

from collections.abc import Iterable

FOLDER = ".jingxiang/app"
FAILED = "failed"
# The folder's physical name: that is what the kernel says of programs that run there.
HERE = f"set -e; umask 077; mkdir -p ~/{FOLDER}; cd -P ~/{FOLDER}; "

# What is there of the bundle: path and size. Nothing: none.
LIST = f"cd ~/{FOLDER}/bundle 2>/dev/null && find . -type f -printf '%P\\t%s\\n' || true"
# A tar comes; $1: the folder to unpack it in.
UNPACK = HERE + 'mkdir -p "$1"; cd "$1"; tar -x -f -'
# The paths come that the bundle has: nothing else stays there.
WEED = HERE + (
    "cd bundle; find . -type f -printf '%P\\n' >../bundle.listed; "
    "grep -vxF -f - ../bundle.listed | tr '\\n' '\\0' | xargs -0 -r rm -f; "
    "rm ../bundle.listed; find . -mindepth 1 -type d -empty -delete"
)
# The toolkit of the version before goes, but for what it has installed for itself.
WIPE = HERE + "mkdir -p toolkit; cd toolkit; find . -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +"
# $@: words after `tasks.py`. Gives what it prints.
TASK = HERE + (
    "export JINGXIANG_HOME=$PWD/home JINGXIANG_STORE=$PWD/store; bundle=file://$PWD/bundle; cd toolkit; "
    'exec python3 tasks.py "$@" --mirror "$bundle"'
)
# $1: name; $2: image; $3: settings; $4: environment. Its code is that of the toolkit.
CREATE = HERE + (
    'rm -rf "versions/$1" new; mkdir -p versions new/src outputs; cp -r toolkit/app toolkit/jingxiang new/src; cd new; '
    'echo "$2" >image; echo "$3" >settings; echo "$4" >environment; '
    "python3 -c 'import socket; s = socket.socket(); s.bind((\"127.0.0.1\", 0)); print(s.getsockname()[1])' >port; "
    'cat >run.sh; cd ..; mv new "versions/$1"'
)
LOG_BYTES = 20_000_000  # of a log that another start goes on with
# A program that keeps another one running, from when it is settled until it is told to stop, or another one like it was
# begun. $@: that program. Who has the lock knows that none is being started: it is given back once there is a number.
KEEP = f"""cd "$(dirname "$0")" || exit 1
echo $$ >keeper
while flock 9; [ ! -e stop ] && [ "$(cat keeper)" = $$ ]; do
  if [ "$(stat -c %s log 2>/dev/null || echo 0)" -gt {LOG_BYTES} ]; then
    tail -c {LOG_BYTES // 4} log >log.new; mv log.new log
  fi
  sh -c 'cd src || exit; echo $$ >../pid; flock -u 9; exec "$@" 9>&-' sh WORDS </dev/null >>log 2>&1
  echo $? >code.new; mv code.new code
  [ -e settled ] || break
  sleep 2
done 9>>lock
"""
# Whether $1/pid is a process of that folder.
RUNS = 'runs() { [ -s "$1/pid" ] && [ "$(readlink "/proc/$(cat "$1/pid")/cwd")" = "$PWD/$1/src" ]; }; '
# Begin to keep $1 running unless it runs. One that waits to start it again sees that it is not the last one any more.
BEGIN = RUNS + (
    'begin() { (exec 8>>"$1/lock"; flock 8; if runs "$1"; then exit; fi; '
    'rm -f "$1/pid" "$1/settled" "$1/stop" "$1/code" "$1/keeper"; '
    '(setsid sh "$1/run.sh" </dev/null >/dev/null 2>&1 8>&- &)); '
    'for i in $(seq 200); do [ -s "$1/pid" ] && break; sleep 0.05; done; }; '
)
# $1: the folder.
START = HERE + BEGIN + 'begin "$1"'
LIFE = HERE + RUNS + 'if runs "$1"; then echo runs; else cat "$1/code" 2>/dev/null || true; fi'
# The app takes a second signal for one to end at once: there is one, however often this is run.
FINISH = (
    HERE
    + RUNS
    + (
        '[ -d "$1" ] || exit 0; exec 8>>"$1/lock"; flock 8; [ ! -e "$1/stop" ] || exit 0; touch "$1/stop"; '
        'if runs "$1"; then kill -TERM "$(cat "$1/pid")"; fi'
    )
)
END = (
    HERE
    + RUNS
    + (
        '[ -d "$1" ] || exit 0; (exec 8>>"$1/lock"; flock 8; touch "$1/stop"); for i in $(seq 50); do '
        'runs "$1" || break; kill -TERM "$(cat "$1/pid")" 2>/dev/null || true; sleep 0.1; done; '
        'if runs "$1"; then kill -KILL "$(cat "$1/pid")"; fi; '
        f'if [ ! -e "$1/served" ] && [ -e "$1/image" ]; then rm -rf {FAILED}; mv "$1" {FAILED}; fi'
    )
)
SETTLE = HERE + 'touch "$1/settled" "$1/served"'
# $1: the folder; $2: how many lines.
LOG = HERE + 'tail -n "$2" "$1/log" 2>/dev/null || true'
# $1: the folder; $2: how many bytes of it are known. Gives how many there are, and those that are not known. One that
# has become shorter is another one.
MORE = HERE + (
    'size=$(stat -c %s "$1/log" 2>/dev/null || echo 0); known=$2; [ "$size" -ge "$known" ] || known=0; echo "$size"; '
    'tail -c "+$((known + 1))" "$1/log" 2>/dev/null | head -c "$((size - known))" || true'
)
# Of each version: name, image, settings, whether it runs, when it was made, whether it has served.
VERSIONS = (
    HERE
    + RUNS
    + (
        'for each in versions/*/; do [ -d "$each" ] || continue; each=${each%/}; '
        'state=ended; if runs "$each"; then state=runs; fi; '
        'printf "%s\\t%s\\t%s\\t%s\\t%s\\t%s\\n" "${each#versions/}" "$(cat "$each/image")" "$(cat "$each/settings")" '
        '"$state" "$(stat -c %Y "$each/image")" "$([ -e "$each/served" ] && echo served)"; done'
    )
)
READ = HERE + 'cat "$1" 2>/dev/null || true'
WRITE = HERE + 'mkdir -p "$(dirname "$1")"; cat >"$1.new"; mv "$1.new" "$1"'
# Out of the environment of version $1.
PROXY = HERE + (
    'mkdir -p proxy/src proxy/data; cp -f "$(cat "versions/$1/environment")/bin/caddy" proxy/caddy.new; '
    "mv proxy/caddy.new proxy/caddy; cat >proxy/run.sh"
)
# Read the configuration again, or begin with it.
LEAD = (
    HERE
    + BEGIN
    + (
        'if runs proxy; then kill -USR1 "$(cat proxy/pid)"; exit; fi; rm -f proxy/sign; begin proxy; '
        "for i in $(seq 200); do [ -S proxy/sign ] && break; sleep 0.05; done; touch proxy/settled"
    )
)
REMOVE = HERE + 'rm -rf "versions/$1"'
# Environments that no version has. Gives those that it has removed.
TIDY = HERE + (
    'for each in home/environments/*; do [ -d "$each" ] || continue; '
    'grep -qxF -- "$PWD/$each" versions/*/environment 2>/dev/null || { rm -rf "$each"; echo "$each"; }; done'
)
# Files that no environment, and no lock of the toolkit there, has any more.
PRUNE = HERE + (
    "export JINGXIANG_HOME=$PWD/home JINGXIANG_STORE=$PWD/store; cd toolkit; exec python3 tasks.py store --prune"
)
CLEAR = HERE + f"rm -rf bundle toolkit store proxy versions passwords releases.json {FAILED}; rm -rf home/environments"
CLEAR_ALL = f"cd; rm -rf ~/{FOLDER}; rmdir ~/.jingxiang 2>/dev/null || true"
# $1: who wants the lock. Gives who has it.
HOLD = HERE + 'said=$(ln -sT "$1" held 2>&1) || [ -L held ] || { echo "$said" >&2; exit 1; }; readlink held'
# $1: whose it is; empty: whoever has it.
LET_GO = f'cd -P ~/{FOLDER} 2>/dev/null || exit 0; [ -z "$1" ] || [ "$(readlink held)" = "$1" ] || exit 0; rm -f held'


def version(name: str) -> str:
    """Its folder; of the one that failed without a name."""
    return f"versions/{name}" if name else FAILED


def kept_running(words: Iterable[str]) -> str:
    """The program that keeps another one running. `words` are in the shell's own way: quoted, with variables."""
    return KEEP.replace("WORDS", " ".join(words))
