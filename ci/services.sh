#!/usr/bin/env bash
# Real services for the tests, in one scratch folder: on loopback a docker engine, a registry and an ssh server; and
# behind a cable of its own a machine with ssh and docker, to deploy to.
#
#   ci/services.sh start DIR    start all of them, wait until each answers, write DIR/environment (to be sourced)
#   ci/services.sh stop DIR     stop them and remove what they made; DIR/*.log stay
#
# Needs root or sudo, dockerd, docker-registry, sshd, ip and python3 (ci/check.sh installs them). Nothing of the machine
# is used or changed: no configuration in /etc, no ~/.ssh, no running engine. Several can run at once, each in its own
# DIR.
#
# Each service is the only program of a process and a mount namespace. When the first process of the namespace ends,
# however it ends, the kernel ends all others and drops the mounts: containers, ssh sessions and what was started
# through them cannot be left behind. A command sent by ssh sees its own process numbers, as on another machine.
set -euo pipefail

services=(docker registry ssh machine)
self=$(realpath -- "${BASH_SOURCE[0]}")

die() {
  echo "services: $*" >&2
  exit 1
}

# --- Inside the namespaces -------------------------------------------------------------------------------------------

# enter NAME HIDDEN COMMAND…: the first process. /proc still shows the outer process numbers, so it can write down which
# one it is, and when it was born: a number alone may be another program's by the time that we stop it.
enter() {
  local name=$1 hidden=$2 root=/ stat folder
  shift 2
  read -r -a stat </proc/self/stat
  echo "${stat[21]}" >"$dir/$name.born"
  echo "${stat[0]}" >"$dir/$name.pid"
  # Nothing that is mounted below may be seen outside. `nsenter` reaches the root of our own namespace from a chroot too.
  nsenter --mount=/proc/self/ns/mnt mount --make-rslave /
  # In a chroot `/` is no mount, and the engine cannot start containers there: give it a root that is one.
  if ! grep -q '^[^ ]* [^ ]* [^ ]* [^ ]* / ' /proc/self/mountinfo; then
    root=$dir/$name.root
    mkdir -p "$root"
    mount --rbind / "$root"
  fi
  mount -t proc proc "$root/proc"
  for folder in $hidden; do
    mkdir -p "$root$folder"
    mount -t tmpfs -o mode=755 tmpfs "$root$folder"
  done
  exec chroot "$root" bash "$self" watch "$dir" "$@"
}

# watch COMMAND…: run it, hand SIGTERM on to it, and end when it ends. Bash leaves SIGINT ignored in what it starts with
# `&`; programs that a service starts must not inherit that.
watch() {
  env --default-signal=INT,QUIT "$@" &
  local child=$!
  # shellcheck disable=SC2064  # the number of now
  trap "kill -TERM $child" TERM
  while kill -0 "$child" 2>/dev/null; do
    wait "$child" || true
  done
}

# machine: a network, a disk, an ssh server and an engine; root may end the last two by the numbers in /run/*.pid. Ends
# when told to, and everything in it ends with it.
machine() {
  exec >&2
  nsenter --mount=/proc/self/ns/mnt mount --make-rslave /
  ip link set lo up
  until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
  ip addr add "$1.2/30" dev eth0
  ip link set eth0 up
  hostname gpu-2
  mkdir -p /run/sshd
  # What is full is this disk, and not the one below it.
  mount -o loop "$dir/machine/disk" "$dir/machine/data"
  "$(command -v sshd)" -D -e -f "$dir/machine/sshd_config" &
  echo $! >/run/sshd.pid
  bash "$dir/machine/dockerd"
  trap 'kill $(jobs -p); exit' TERM
  while true; do sleep 1; done
}

# --- Outside ---------------------------------------------------------------------------------------------------------

# launch NAME HIDDEN COMMAND…: start it in namespaces of its own, in which the folders HIDDEN are empty.
launch() {
  local name=$1
  rm -f "$dir/$name.pid" "$dir/$name.born"
  setsid "${sudo[@]}" unshare --pid --mount --propagation unchanged --fork --kill-child "${more[@]}" \
    bash "$self" enter "$dir" "$@" </dev/null >"$dir/$name.log" 2>&1 &
  launched[$name]=$!
}

# alive NAME: whether the process of its pid file runs, and is still the one that wrote it.
alive() {
  local pid stat
  { read -r pid <"$dir/$1.pid" && read -r -a stat <"/proc/$pid/stat"; } 2>/dev/null || return 1
  [ "${stat[21]}" = "$(cat "$dir/$1.born")" ] && [ "${stat[2]}" != Z ]
}

# await NAME SECONDS CHECK…: poll until CHECK holds; fails when the service ends before, or takes longer.
await() {
  local name=$1 deadline=$((SECONDS + $2))
  shift 2
  until "$@" 2>/dev/null; do
    if [ ! -d "/proc/${launched[$name]}" ] || [ "$SECONDS" -ge "$deadline" ]; then
      return 1
    fi
    sleep 0.1
  done
  alive "$name"
}

failed() {
  tail -n 20 "$dir/$1.log" >&2 || true
  die "$1 did not start; its log is above"
}

# answers ADDRESS PATH: whether GET PATH gives 200. ADDRESS is a socket's path or HOST:PORT.
answers() {
  "$python" - "$@" <<'PYTHON'
import socket, sys

address, path = sys.argv[1:]
if address.startswith("/"):
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(5)
    peer.connect(address)
else:
    host, port = address.split(":")
    peer = socket.create_connection((host, int(port)), timeout=5)
peer.sendall("GET {} HTTP/1.0\r\nHost: localhost\r\n\r\n".format(path).encode())
sys.exit(b" 200 " not in peer.recv(4096).split(b"\r\n")[0])
PYTHON
}

start_docker() {
  mkdir "$dir/docker"
  echo '{}' >"$dir/docker/daemon.json"
  # An engine joins the containerd that it finds in /run/containerd, and with it a running engine; and it writes a key
  # to /etc/docker: hide them. Only `cgroupfs` works beside a systemd that does not know our process numbers.
  launch docker "/run/containerd /run/docker /etc/docker" dockerd --config-file "$dir/docker/daemon.json" --log-level warn \
    --host "unix://$dir/docker.sock" --group "$(id -g)" --pidfile "$dir/docker/dockerd.pid" \
    --data-root "$dir/docker/data" --exec-root "$dir/docker/exec" \
    --bridge none --iptables=false --ip6tables=false --ip-forward=false \
    --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$cgroup"
}

start_registry() {
  mkdir "$dir/registry"
  cat >"$dir/registry/config.yml" <<CONFIG
version: 0.1
log: {level: info, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $dir/registry/data}, delete: {enabled: true}}
http: {addr: "127.0.0.1:0"}
CONFIG
  launch registry "" "${as_me[@]}" docker-registry serve "$dir/registry/config.yml"
}

# The port that the registry says it has got.
registry_address() {
  sed -n 's/.*listening on \(127\.0\.0\.1:[0-9]\{1,5\}\).*/\1/p' "$dir/registry.log" | head -n 1 | grep .
}

start_ssh() {
  local sshd port attempt options pam=no
  sshd=$(command -v sshd)
  mkdir -m 700 "$dir/ssh"
  ssh-keygen -q -t ed25519 -N '' -C jingxiang-test -f "$dir/ssh/host_key"
  ssh-keygen -q -t ed25519 -N '' -C jingxiang-test -f "$dir/ssh/id"
  cp "$dir/ssh/id.pub" "$dir/ssh/authorized_keys"
  # Without PAM, root may not come in where its password is locked, keys or not.
  if [ "$(id -u)" = 0 ] && getent shadow root | grep -q '^root:!'; then pam=yes; fi
  cat >"$dir/ssh/sshd_config" <<CONFIG
ListenAddress 127.0.0.1
HostKey $dir/ssh/host_key
AuthorizedKeysFile $dir/ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PermitUserRC no
StrictModes no
UsePAM $pam
UseDNS no
PidFile none
MaxStartups 200
MaxSessions 100
PrintMotd no
SetEnv DOCKER_HOST=unix://$dir/docker.sock
Subsystem sftp internal-sftp
CONFIG
  # Since 9.8 a client that fails a few times is shut out for a while: tests do fail on purpose.
  options=$("$sshd" -t -f "$dir/ssh/sshd_config" -o PerSourcePenalties=no 2>&1 || true)
  case $options in *"onfiguration option"*) ;; *) echo "PerSourcePenalties no" >>"$dir/ssh/sshd_config" ;; esac
  # sshd cannot be asked to pick a port (0 is refused): try, below the range that the kernel gives to clients.
  for attempt in {1..20}; do
    port=$((20000 + RANDOM % 12000))
    launch ssh /run/sshd "${as_me[@]}" "$sshd" -D -e -f "$dir/ssh/sshd_config" -p "$port"
    if await ssh 30 grep -q "Server listening on 127.0.0.1 port $port" "$dir/ssh.log"; then
      break
    fi
    if [ "$attempt" = 20 ] || ! grep -q "Address already in use" "$dir/ssh.log"; then
      failed ssh
    fi
  done
  echo "[127.0.0.1]:$port $(cut -d' ' -f1,2 "$dir/ssh/host_key.pub")" >"$dir/ssh/known_hosts"
  cat >"$dir/ssh/config" <<CONFIG
Host gpu-1
  HostName 127.0.0.1
  Port $port
  User $(id -un)
  IdentityFile $dir/ssh/id
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile $dir/ssh/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
CONFIG
  timeout 20 ssh -F "$dir/ssh/config" -o BatchMode=yes -o ConnectTimeout=10 gpu-1 true </dev/null || failed ssh
}

# Another host in all that matters: own network, own names, own processes, root's own folder, a disk of 8 GB.
start_machine() {
  local net more=(--net --uts)
  net=198.18.$((${cgroup##*-} % 250))
  mkdir -p "$dir/machine/data" "$dir/machine/home" "$dir/machine/bin"
  truncate --size 8G "$dir/machine/disk"
  mkfs.ext4 -q -m 0 "$dir/machine/disk"
  ssh-keygen -q -t ed25519 -N '' -C jingxiang-test -f "$dir/machine/host_key"
  sed -e "s#^ListenAddress .*#ListenAddress $net.2#" -e "s#$dir/ssh/host_key#$dir/machine/host_key#" \
    -e "s#$dir/ssh/authorized_keys#$dir/machine/authorized_keys#" \
    -e "s#^SetEnv .*#SetEnv DOCKER_HOST=unix://$dir/machine/docker.sock HOME=$dir/machine/home PATH=$dir/machine/bin:$PATH#" \
    "$dir/ssh/sshd_config" >"$dir/machine/sshd_config"
  # Whoever comes with the second key is nobody, and in no group.
  ssh-keygen -q -t ed25519 -N '' -C jingxiang-test -f "$dir/machine/guest"
  {
    cat "$dir/ssh/id.pub"
    # shellcheck disable=SC2016  # for the shell there
    printf 'command="setpriv --reuid=65534 --regid=65534 --clear-groups sh -c \\"$SSH_ORIGINAL_COMMAND\\"" %s\n' \
      "$(cat "$dir/machine/guest.pub")"
  } >"$dir/machine/authorized_keys"
  echo '{"insecure-registries": ["198.18.0.0/15"]}' >"$dir/machine/daemon.json"
  # As a file, so that tests can end the engine and start it again.
  cat >"$dir/machine/dockerd" <<SCRIPT
PATH=$dir/machine/bin:\$PATH dockerd --config-file $dir/machine/daemon.json --log-level warn --host unix://$dir/machine/docker.sock \\
  --pidfile /run/dockerd.pid --data-root $dir/machine/data --exec-root /run/docker-exec --bip 172.31.77.1/24 \\
  --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent /$cgroup </dev/null >>$dir/machine/dockerd.log 2>&1 &
SCRIPT
  launch machine "/run" bash "$self" machine "$dir" "$net"
  await machine 30 test -s "$dir/machine.pid" || failed machine
  "${sudo[@]}" ip link add "jx${cgroup##*-}" type veth peer name eth0 netns "$(cat "$dir/machine.pid")"
  "${sudo[@]}" ip addr add "$net.1/30" dev "jx${cgroup##*-}"
  "${sudo[@]}" ip link set "jx${cgroup##*-}" up
  echo "$net.2 $(cut -d' ' -f1,2 "$dir/machine/host_key.pub")" >"$dir/machine/known_hosts"
  sed -e "s/^Host .*/Host gpu-2/" -e "s/HostName .*/HostName $net.2/" -e "s/ Port .*/ Port 22/" -e "s/ User .*/ User root/" \
    -e "s#$dir/ssh/known_hosts#$dir/machine/known_hosts#" "$dir/ssh/config" >"$dir/machine/config"
  await machine 30 timeout 20 ssh -F "$dir/machine/config" -o BatchMode=yes -o ConnectTimeout=2 gpu-2 true </dev/null ||
    failed machine
}

start() {
  local name
  [[ $dir =~ ^[A-Za-z0-9/._+-]+$ ]] || die "$dir: only letters, digits and ._+-/ may be in the name"
  [ "${#dir}" -le 65 ] || die "$dir: too long a name, ${#dir} of at most 65 characters (sockets below it have a limit)"
  if [ -d "$dir" ] && [ ! -e "$dir/.jingxiang-services" ] && [ -n "$(ls -A "$dir")" ]; then
    die "$dir holds other things; name an empty folder, or one that is not there yet"
  fi
  for name in "${services[@]}"; do
    ! alive "$name" || die "$name runs in $dir already; first: ci/services.sh stop $dir"
  done
  for name in dockerd docker-registry sshd ssh ssh-keygen unshare setsid ip mkfs.ext4; do
    command -v "$name" >/dev/null || die "$name is not installed; ci/check.sh shows the packages"
  done
  for python in python3 /usr/bin/python3 ''; do
    if [ -n "$python" ] && "$python" -c '' 2>/dev/null; then break; fi
  done
  [ -n "$python" ] || die "no python3 that starts"
  mkdir -p "$dir"
  touch "$dir/.jingxiang-services"
  clear
  trap '[ "$?" = 0 ] || stop' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP

  start_docker
  start_registry
  start_ssh
  start_machine
  await registry 30 registry_address >/dev/null || failed registry
  local registry
  registry=$(registry_address)
  await registry 30 answers "$registry" /v2/ || failed registry
  await docker 90 answers "$dir/docker.sock" /_ping || failed docker
  await machine 90 answers "$dir/machine/docker.sock" /_ping || failed machine
  {
    echo "export JINGXIANG_TEST_DOCKER_HOST=unix://$dir/docker.sock"
    echo "export JINGXIANG_TEST_REGISTRY=$registry"
    echo "export JINGXIANG_TEST_SSH_CONFIG=$dir/ssh/config"
    echo "export JINGXIANG_TEST_MACHINE=$dir/machine"
  } >"$dir/environment"
}

stop() {
  local name left=()
  [ -e "$dir/.jingxiang-services" ] || return 0
  for name in "${services[@]}"; do
    ! alive "$name" || end "$name" TERM
  done
  # The engine gives each container ten seconds; what is left in this folder needs none.
  for name in "${services[@]}"; do
    gone "$name" 3 || { end "$name" KILL && gone "$name" 10; } || left+=("$name")
  done
  [ "${#left[@]}" = 0 ] || die "could not be stopped: ${left[*]}"
  clear
}

end() {
  "${sudo[@]}" kill "-$2" "$(cat "$dir/$1.pid")" 2>/dev/null || true
}

gone() {
  local deadline=$((SECONDS + $2))
  while alive "$1"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.05
  done
}

# Remove what the services made, but the logs. Their mounts went with their namespaces.
clear() {
  local name found
  while read -r found; do
    "${sudo[@]}" rmdir "$found" 2>/dev/null || true
  done < <(find /sys/fs/cgroup -depth -type d \( -path "*/$cgroup" -o -path "*/$cgroup/*" \) 2>/dev/null)
  for name in "${services[@]}"; do
    "${sudo[@]}" rm -rf --one-file-system "${dir:?}/$name" "$dir/$name.root" "$dir/$name.pid" "$dir/$name.born"
  done
  "${sudo[@]}" rm -f "$dir/docker.sock" "$dir/environment"
}

# ---------------------------------------------------------------------------------------------------------------------

if [ $# -lt 2 ] || [ -z "$2" ]; then
  sed -n '4,5s/^# *//p' "$self" >&2
  exit 2
fi
action=$1 dir=$(realpath -m -- "$2")
shift 2
cgroup=jingxiang-$(cksum <<<"$dir" | cut -d' ' -f1)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # a user's PATH lacks them on Debian, and dockerd and sshd live there
declare -A launched=()
sudo=() as_me=() more=()
if [ "$(id -u)" != 0 ]; then
  sudo=(sudo -n)
  as_me=(setpriv --reuid="$(id -u)" --regid="$(id -g)" --init-groups)
  sudo -n true || die "needs root, or sudo without a password"
fi
case $action in
  start | stop | enter | watch | machine) "$action" "$@" ;;
  *) die "no such action: $action (start or stop)" ;;
esac
