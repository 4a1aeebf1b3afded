#!/usr/bin/env bash
# Everything that must hold, from a fresh clone, on a Debian or Ubuntu where nothing was installed by hand.
#
# Installs the system packages that tests need and that are missing (root, or sudo without a password), starts the
# services of ci/services.sh, runs all checks and all tests, and stops the services whatever happened. It is made for CI
# and throw-away machines; while working, `python3 tasks.py check` is enough.
# shellcheck disable=SC2317  # functions that only `step` and `trap` call
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null # nothing can wait for an answer
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
export JINGXIANG_TEST_STRICT=1 # a test that would be skipped for a missing system part fails; see tests/peers/system.py
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# package, and the command that makes it unnecessary: docker-ce, a browser by hand, … (libatomic1 is for the program that
# playwright brings along)
packages=(
  "git git" "ca-certificates" "fonts-noto-cjk" "libatomic1" "docker.io dockerd" "docker-cli docker" "iptables iptables"
  "docker-registry docker-registry" "openssh-server sshd" "iproute2 ip" "mount mount" "btrfs-progs" "xfsprogs" "e2fsprogs mkfs.ext4"
  "openssl openssl" "curl curl" "gnupg gpg" "g++ g++" "tinyproxy tinyproxy" "mmdebstrap mmdebstrap" "postgresql" "patchelf patchelf"
  "podman podman" "catatonit" "netavark" "aardvark-dns" "golang-go go" "golang-github-modern-go-reflect2-dev" "etcd-server etcd"
)
policy=/usr/sbin/policy-rc.d
child='' python='' failed=() times=()
# In /tmp whatever TMPDIR is: the paths of the services' sockets have to be short.
scratch=$(mktemp -d /tmp/jingxiang-XXXXXX)

say() { printf '%s\n' "$*" >&2; }

finish() {
  if [ -n "$child" ]; then
    kill "$child" 2>/dev/null || true
    wait "$child" || true
  fi
  allow_services || true
  if bash ci/services.sh stop "$scratch/s"; then
    rm -rf --one-file-system "$scratch"
  else
    say "left behind: $scratch"
  fi
}

# bounded SECONDS COMMAND…: run it, but not for longer. In the background, so that a signal to this script is acted upon
# at once; hence `env`, because bash lets what it starts so ignore Ctrl-C, and tests send that.
bounded() {
  local limit=$1 code=0
  shift
  env --default-signal=INT,QUIT timeout --kill-after=30 "$limit" "$@" &
  child=$!
  wait "$child" || code=$?
  child=''
  [ "$code" != 124 ] || say "stopped: it took more than $limit s"
  return "$code"
}

# step NAME COMMAND…
step() {
  local name=$1 start=$SECONDS code=0 word=ok
  shift
  say "==> $name"
  "$@" || code=$?
  if [ "$code" != 0 ]; then
    word="failed ($code)"
    failed+=("$name")
  fi
  times+=("$(printf '%-9s %5d s  %s' "$name" $((SECONDS - start)) "$word")")
  say "<== ${times[-1]}"
  return "$code"
}

summary() {
  printf '%s\n' '' "${times[@]}" >&2
  [ "${#failed[@]}" = 0 ] || exit 1
  exit 0
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# apt SECONDS ARGUMENT…: apt-get, silent unless it fails. sudo forgets the environment, and may be stopped by root only.
apt() {
  local limit=$1 name settings=() prefix=()
  shift
  for name in DEBIAN_FRONTEND NEEDRESTART_SUSPEND http_proxy https_proxy no_proxy; do
    [ -z "${!name:-}" ] || settings+=("$name=${!name}")
  done
  [ "$(id -u)" = 0 ] || prefix=(sudo -n timeout --kill-after=30 "$limit")
  bounded "$limit" "${prefix[@]}" env "${settings[@]}" apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
    -o Dpkg::Use-Pty=0 "$@" >"$scratch/apt.log" 2>&1 || {
    tail -n 30 "$scratch/apt.log" >&2
    return 1
  }
}

installed() { dpkg -s "$1" 2>/dev/null | grep -q '^Status: .* installed$'; }

# The version of a package that apt would install; nothing if there is none, or it only leads to a snap.
available() { LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p' | grep -v -e '(none)' -e snap; }

# The first Python that starts, is of a version that the locks are made for, and can make environments.
find_python() {
  local name
  for name in python3.11 python3 /usr/bin/python3.11 /usr/bin/python3; do
    if "$name" -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
    then
      python=$name
      return 0
    fi
  done
  return 1
}

# The first browser that starts: Ubuntu's `chromium-browser` may only be a hint to install a snap.
find_browser() {
  local name
  for name in "${JINGXIANG_TEST_BROWSER:-chromium}" chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null && timeout 60 "$name" --version 2>/dev/null | grep -q -e Chromium -e Chrome; then
      JINGXIANG_TEST_BROWSER=$(command -v "$name")
      export JINGXIANG_TEST_BROWSER
      return 0
    fi
  done
  return 1
}

# Packaged services stay off: ours run on loopback, with settings of their own.
forbid_services() {
  [ ! -e "$policy" ] || return 0
  printf '#!/bin/sh\nexit 101\n' >"$scratch/policy"
  as_root install -m 755 "$scratch/policy" "$policy"
}

allow_services() {
  [ -e "$scratch/policy" ] || return 0
  as_root rm -f "$policy" "$scratch/policy"
}

# Sets `missing`: the packages that are neither installed nor unnecessary.
look() {
  local line package command
  missing=()
  hash -r
  find_python || missing+=(python3 python3-venv)
  python3.11 -c '' 2>/dev/null || missing+=(python3.11 python3.11-venv) # what the environments are locked for
  python3.11 -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
    missing+=(libpython3.11-dev)
  find_browser || missing+=(chromium)
  for line in "${packages[@]}"; do
    read -r package command <<<"$line"
    if ! installed "$package" && ! { [ -n "$command" ] && command -v "$command" >/dev/null; }; then
      missing+=("$package")
    fi
  done
}

install_packages() {
  local package missing wanted=()
  look
  if [ "${#missing[@]}" != 0 ]; then
    as_root true || { say "root or sudo without a password is needed to install: ${missing[*]}"; return 1; }
    command -v apt-get >/dev/null || { say "not a Debian or Ubuntu; install by hand: ${missing[*]}"; return 1; }
    apt 600 update || return 1
    for package in "${missing[@]}"; do
      # docker-cli is part of docker.io in older releases, and Ubuntu has no chromium.
      [ -z "$(available "$package")" ] || wanted+=("$package")
    done
    say "installing: ${wanted[*]}"
    forbid_services || return 1
    apt 1800 install -y --no-install-recommends "${wanted[@]}" || return 1
    allow_services
    look
    [ "${#missing[@]}" = 0 ] || say "still missing, and tests that need it will fail: ${missing[*]}"
  fi
  [ -n "$python" ] || { say "no Python from 3.10 to 3.13 with venv; install python3.11 and python3.11-venv"; return 1; }
  say "$("$python" --version) ($(command -v "$python")), ${JINGXIANG_TEST_BROWSER:-no browser}"
}

start_services() {
  bounded 300 bash ci/services.sh start "$scratch/s" || return 1
  # shellcheck source=/dev/null
  . "$scratch/s/environment"
}

# Kept from run to run: it takes minutes to build.
build_cluster() {
  JINGXIANG_TEST_KUBERNETES=${XDG_CACHE_HOME:-$HOME/.cache}/jingxiang/kubernetes
  export JINGXIANG_TEST_KUBERNETES
  bounded 1800 bash ci/kubernetes.sh "$JINGXIANG_TEST_KUBERNETES" >"$scratch/kubernetes.log" 2>&1 || {
    tail -n 30 "$scratch/kubernetes.log" >&2
    return 1
  }
}

trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

step install install_packages || summary
step services start_services || summary
step cluster build_cluster || true
# `check` leaves out the tests marked e2e, and pytest's -k matches marks and folder names as well as names: together
# they run every test, and none of the fast ones twice. One may fail without hiding what the other finds.
step check bounded 3600 "$python" tasks.py check || true
step e2e bounded 7200 "$python" tasks.py test --match e2e || true
summary
