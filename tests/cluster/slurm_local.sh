#!/usr/bin/env bash
# A real Slurm (munged, slurmctld, several slurmd) on one machine, for Foreword's tests: no systemd, no questions, and
# every command may be given twice.
#
#   slurm_local.sh install            Debian's packages for it, with apt-get; does nothing when they are there
#   slurm_local.sh up                 start the cluster and wait until every node is idle
#   slurm_local.sh down               cancel all jobs, stop all daemons, remove host names and bridge
#   slurm_local.sh status|env         env prints "export SLURM_CONF=..." (eval it before sbatch and srun)
#   slurm_local.sh crash  nodeK       power loss: SIGKILL for the slurmd, slurmstepd and every task of that node
#   slurm_local.sh boot   nodeK       start that node again
#   slurm_local.sh cut|join nodeK     ns mode only: unplug or replug the node's network cable
#
# Environment (read by `up`, remembered in $SL_DIR/settings):
#   SL_DIR=/tmp/foreword-slurm  SL_NODES=2  SL_CPUS=64  SL_MEM=512000  SL_GPUS=8  SL_PARTS="debug gpu"
#   SL_SACCT=1     slurmdbd and a private mariadbd too: full sacct (history, steps, memory); --mem is then enforced
#   SL_EXTRA=""    more slurm.conf lines (they win)
#   SL_MODE=plain  all slurmd in the host's namespaces (`hostname` is the same on every node; without root for one user)
#   SL_MODE=ns     one PID, UTS, mount and network namespace per node (needs root, veth, bridge): each node has its own
#                  hostname, address, /dev/shm and $SL_DIR/local, and `crash` is a real power loss
#
# Ports, bridge and host names belong to the machine: one such cluster at a time.
set -euo pipefail
SL_DIR=${SL_DIR:-/tmp/foreword-slurm}
# shellcheck source=/dev/null
[ -f "$SL_DIR/settings" ] && [ "${1:-}" != up ] && . "$SL_DIR/settings"
SL_NODES=${SL_NODES:-2} SL_CPUS=${SL_CPUS:-64} SL_MEM=${SL_MEM:-512000} SL_GPUS=${SL_GPUS:-8}
SL_PARTS=${SL_PARTS:-debug gpu} SL_MODE=${SL_MODE:-plain} SL_PORT=${SL_PORT:-17000} SL_NET=${SL_NET:-10.217.0}
SL_EXTRA=${SL_EXTRA:-} SL_SACCT=${SL_SACCT:-}
export SLURM_CONF=$SL_DIR/slurm.conf PATH=/usr/sbin:/sbin:$PATH
nodes() { local i; for ((i = 1; i <= SL_NODES; i++)); do echo "node$i"; done; }
say() { echo "slurm_local: $*" >&2; }
die() { say "$*"; exit 1; }

# A pid counts as alive only if it is not a zombie (pid 1 in containers often does not reap)
# and its command line contains the word we expect (pids get reused).
alive() { # pid word
  [ -n "${1:-}" ] && [ -r "/proc/$1/stat" ] || return 1
  [ "$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null)" != Z ] || return 1
  tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -q -- "$2"
}
pidof_file() { cat "$1" 2>/dev/null || true; }
stop_pid() { # pid word
  alive "$1" "$2" || return 0
  kill -TERM "$1" 2>/dev/null || true
  for _ in $(seq 50); do alive "$1" "$2" || return 0; sleep 0.1; done
  kill -KILL "$1" 2>/dev/null || true
}

# never call a Slurm client without a config file: it retries for 60 s
ctl_up() { [ -f "$SL_DIR/settings" ] && [ -f "$SLURM_CONF" ] && scontrol ping 2>/dev/null | grep -q 'is UP'; }

install() {
  local program absent='' packages=(slurm-wlm munge iproute2 shellcheck)
  [ -z "$SL_SACCT" ] || packages+=(slurmdbd mariadb-server-core)
  for program in slurmctld slurmd munged ip shellcheck ${SL_SACCT:+slurmdbd mariadbd}; do
    command -v "$program" >/dev/null || absent="$absent $program"
  done
  [ -n "$absent" ] || return 0
  { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } ||
    die "not on this machine:$absent; as root on Debian or Ubuntu I would install: ${packages[*]}"
  say "installing ${packages[*]}"
  local log; log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >"$log" 2>&1 ||
    die "apt-get failed, see $log"
  rm -f "$log"
}

config() {
  local ctl=127.0.0.1 i n
  [ "$SL_MODE" = ns ] && ctl=$SL_NET.1
  mkdir -p "$SL_DIR"/{munge/run,log,state,spool,run,gpu,local,nodes}
  chmod 755 "$SL_DIR" "$SL_DIR/munge/run"; chmod 711 "$SL_DIR/munge"   # munged refuses a 0700 socket dir
  [ -s "$SL_DIR/munge/key" ] || (umask 077; head -c 128 /dev/urandom >"$SL_DIR/munge/key")
  for v in SL_NODES SL_CPUS SL_MEM SL_GPUS SL_PARTS SL_MODE SL_PORT SL_NET SL_EXTRA SL_SACCT; do printf '%s=%q\n' $v "${!v}"; done >"$SL_DIR/settings"
  local dev=$SL_DIR/gpu/nvidia
  for ((i = 0; i < SL_GPUS; i++)); do   # must be DEVICE nodes, else CUDA_VISIBLE_DEVICES stays empty
    [ -c "$dev$i" ] || mknod "$dev$i" c 1 3 2>/dev/null || { dev=/dev/tty; break; }
  done
  cat >"$SL_DIR/slurm.conf" <<EOF
ClusterName=local
SlurmctldHost=$(hostname -s)($ctl)
SlurmctldPort=$SL_PORT
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$SL_DIR/munge/run/socket,cred_expire=5
StateSaveLocation=$SL_DIR/state
SlurmdSpoolDir=$SL_DIR/spool/%n
SlurmctldPidFile=$SL_DIR/run/slurmctld.pid
SlurmdPidFile=$SL_DIR/run/slurmd.%n.pid
SlurmctldLogFile=$SL_DIR/log/slurmctld.log
SlurmdLogFile=$SL_DIR/log/slurmd.%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$SL_DIR/log/jobcomp.txt
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=86400
SlurmdTimeout=10
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
GresTypes=gpu
EOF
  [ "$SL_GPUS" -gt 0 ] || sed -i /^GresTypes/d "$SL_DIR/slurm.conf"
  echo "AutoDetect=off" >"$SL_DIR/gres.conf"
  i=0
  for n in $(nodes); do
    i=$((i + 1))
    local host=localhost addr=127.0.0.1
    [ "$SL_MODE" = ns ] && host=$n addr=$SL_NET.$((10 + i))
    echo "NodeName=$n NodeHostname=$host NodeAddr=$addr Port=$((SL_PORT + i)) CPUs=$SL_CPUS RealMemory=$SL_MEM $([ "$SL_GPUS" -eq 0 ] || echo "Gres=gpu:$SL_GPUS") State=UNKNOWN" >>"$SL_DIR/slurm.conf"
    [ "$SL_GPUS" -eq 0 ] || echo "NodeName=$n Name=gpu File=${dev}[0-$((SL_GPUS - 1))]" >>"$SL_DIR/gres.conf"
  done
  local first=YES p extra=$SL_EXTRA
  [ -z "$SL_SACCT" ] || extra="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((SL_PORT + 101))
AccountingStoragePass=$SL_DIR/munge/run/socket
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectTypeParameters=CR_Core_Memory
DefMemPerNode=4000
$SL_EXTRA"
  for p in $SL_PARTS; do
    echo "PartitionName=$p Nodes=ALL Default=$first MaxTime=INFINITE State=UP OverSubscribe=NO" >>"$SL_DIR/slurm.conf"
    first=NO
  done
  while IFS= read -r p; do   # SL_EXTRA wins: drop our own line for the same key
    [[ $p == *=* ]] || continue
    case $p in NodeName=* | PartitionName=*) ;; *) sed -i "/^${p%%=*}=/d" "$SL_DIR/slurm.conf" ;; esac
    echo "$p" >>"$SL_DIR/slurm.conf"
  done <<<"$extra"
}

hosts_add() { # plain mode: the virtual node names must resolve for MASTER_ADDR / rdzv
  [ -w /etc/hosts ] || { say "cannot write /etc/hosts: node names will not resolve, use MASTER_ADDR=127.0.0.1"; return 0; }
  hosts_del
  local n; for n in $(nodes); do echo "127.0.0.1 $n # slurm_local"; done >>/etc/hosts
}
hosts_del() { # rewrite in place (no rename: /etc/hosts is a bind mount in containers)
  grep -q '# slurm_local$' /etc/hosts || return 0
  local keep; keep=$(grep -v '# slurm_local$' /etc/hosts || true); printf '%s\n' "$keep" >/etc/hosts
}

bridge_up() {
  ip link show slbr0 >/dev/null 2>&1 || ip link add slbr0 type bridge
  ip addr replace "$SL_NET.1/24" dev slbr0; ip link set slbr0 up
}

wait_port() { # port
  for _ in $(seq 300); do (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return 0; sleep 0.1; done
  die "nothing listens on port $1; logs in $SL_DIR/log"
}
sacct_up() {
  mkdir -p "$SL_DIR/db"
  if ! alive "$(pidof_file "$SL_DIR/run/mariadbd.pid")" "$SL_DIR/db"; then   # no grant tables: no install-db needed
    setsid mariadbd --no-defaults --user=root --datadir="$SL_DIR/db" --socket="$SL_DIR/run/db.sock" \
      --pid-file="$SL_DIR/run/mariadbd.pid" --bind-address=127.0.0.1 --port=$((SL_PORT + 102)) --skip-grant-tables \
      --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=0 </dev/null >"$SL_DIR/log/mariadbd.log" 2>&1 &
    disown; wait_port $((SL_PORT + 102))
  fi
  (umask 077; cat >"$SL_DIR/slurmdbd.conf") <<EOF
AuthType=auth/munge
AuthInfo=socket=$SL_DIR/munge/run/socket
DbdHost=$(hostname -s)
DbdAddr=127.0.0.1
DbdPort=$((SL_PORT + 101))
SlurmUser=$(id -un)
LogFile=$SL_DIR/log/slurmdbd.log
PidFile=$SL_DIR/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((SL_PORT + 102))
StorageUser=slurm
StoragePass=none
StorageLoc=slurm_acct
EOF
  alive "$(pidof_file "$SL_DIR/run/slurmdbd.pid")" slurmdbd || { slurmdbd </dev/null; wait_port $((SL_PORT + 101)); }
}

boot() { # node
  local n=$1 i=${1#node} pid
  # A node back before SlurmdTimeout would leave its (dead) young job RUNNING for many minutes: tell slurmctld.
  if [ -e "$SL_DIR/run/crashed.$n" ]; then
    rm -f "$SL_DIR/run/crashed.$n"; scontrol update nodename="$n" state=down reason=crashed 2>/dev/null || true
  fi
  if [ "$SL_MODE" = plain ]; then
    alive "$(pidof_file "$SL_DIR/run/slurmd.$n.pid")" "slurmd -f $SLURM_CONF -N $n" && return 0
    slurmd -f "$SLURM_CONF" -N "$n" </dev/null
    return
  fi
  alive "$(pidof_file "$SL_DIR/run/init.$n.pid")" "slurm_local-$n $SL_DIR" && return 0
  bridge_up
  ip link del "slv$i" 2>/dev/null || true
  rm -f "$SL_DIR/run/netready.$n"; mkdir -p "$SL_DIR/nodes/$n"
  { echo "127.0.0.1 localhost"; local k=0 m; for m in $(nodes); do k=$((k + 1)); echo "$SL_NET.$((10 + k)) $m"; done
    echo "$SL_NET.1 $(hostname -s)"; } >"$SL_DIR/run/hosts"
  sed 's/^hosts:.*/hosts: files/' /etc/nsswitch.conf >"$SL_DIR/run/nsswitch"   # no DNS inside: no lookup stalls
  # bash is pid 1 of the node: it reaps orphans and outlives slurmd; unshare --kill-child ties it to us
  # shellcheck disable=SC2016  # the variables belong to the inner bash
  setsid unshare --kill-child=KILL -fpumn --mount-proc bash -c '
    dir=$1 n=$2; hostname "$n"
    mount --bind "$dir/run/hosts" /etc/hosts; mount --bind "$dir/run/nsswitch" /etc/nsswitch.conf
    mount --bind "$dir/nodes/$n" "$dir/local"; mount -t tmpfs shm /dev/shm
    while [ ! -e "$dir/run/netready.$n" ]; do sleep 0.02; done
    slurmd -D -f "$dir/slurm.conf" -N "$n" & wait
    while :; do sleep 3600 & wait; done' "slurm_local-$n" "$SL_DIR" "$n" </dev/null >"$SL_DIR/log/ns.$n.log" 2>&1 &
  pid=$!; disown; echo "$pid" >"$SL_DIR/run/ns.$n.pid"
  local c=
  for _ in $(seq 100); do c=$(tr -d ' ' 2>/dev/null <"/proc/$pid/task/$pid/children"); [ -n "$c" ] && break; sleep 0.02; done
  [ -n "$c" ] || die "$n: namespace did not start, see $SL_DIR/log/ns.$n.log"
  echo "$c" >"$SL_DIR/run/init.$n.pid"
  ip link add "slv$i" type veth peer name eth0 netns "$c"
  ip link set "slv$i" master slbr0 up
  nsenter -t "$c" -n sh -c "ip link set lo up; ip addr add $SL_NET.$((10 + i))/24 dev eth0; ip link set eth0 up"
  : >"$SL_DIR/run/netready.$n"
}

# plain mode: slurmstepd overwrites its environ (setproctitle), but keeps its node's log file open
stepds() { # node
  local p
  for p in $(pgrep -x slurmstepd); do
    find "/proc/$p/fd" -lname "$SL_DIR/log/slurmd.$1.log" 2>/dev/null | grep -q . && echo "$p"
  done
  return 0
}
# plain mode: batch scripts and tasks of one node, found by the environment Slurm gives them
node_pids() { # node
  local p e
  for p in /proc/[0-9]*; do
    e=$(tr '\0' '\n' 2>/dev/null <"$p/environ") || continue
    [[ $'\n'$e$'\n' == *$'\n'"SLURMD_NODENAME=$1"$'\n'* && $'\n'$e$'\n' == *$'\n'"SLURM_CONF=$SLURM_CONF"$'\n'* ]] && echo "${p#/proc/}"
  done
  return 0
}
crash() { # node
  local n=$1 p
  mkdir -p "$SL_DIR/run"; : >"$SL_DIR/run/crashed.$n"
  if [ "$SL_MODE" = ns ]; then
    ip link set "slv${n#node}" down 2>/dev/null || true   # silent: peers get no FIN, as with a real power loss
    p=$(pidof_file "$SL_DIR/run/init.$n.pid"); alive "$p" "slurm_local-$n $SL_DIR" && kill -KILL "$p"
    rm -f "$SL_DIR/run/init.$n.pid" "$SL_DIR/run/slurmd.$n.pid"; return 0
  fi
  p=$(pidof_file "$SL_DIR/run/slurmd.$n.pid"); alive "$p" "slurmd -f $SLURM_CONF -N $n" && kill -KILL "$p"
  for p in $(stepds "$n") $(node_pids "$n"); do kill -KILL "$p" 2>/dev/null || true; done
  rm -f "$SL_DIR/run/slurmd.$n.pid"
}

up() {
  local p
  for p in slurmctld slurmd munged; do command -v "$p" >/dev/null || die "$p is not installed: run $0 install"; done
  [ "$(id -u)" = 0 ] || [ "$SL_MODE" = plain ] || die "ns mode needs root"
  if ctl_up; then
    # shellcheck source=/dev/null
    . "$SL_DIR/settings"; say "controller already up"
  else
    config
  fi
  if ! alive "$(pidof_file "$SL_DIR/munge/pid")" "$SL_DIR/munge/run/socket"; then
    rm -f "$SL_DIR"/munge/run/socket*
    munged --key-file="$SL_DIR/munge/key" --socket="$SL_DIR/munge/run/socket" --pid-file="$SL_DIR/munge/pid" \
      --log-file="$SL_DIR/munge/log" --seed-file="$SL_DIR/munge/seed" --num-threads=10 </dev/null
  fi
  if [ "$SL_MODE" = ns ]; then bridge_up; else hosts_add; fi
  [ -z "$SL_SACCT" ] || sacct_up
  alive "$(pidof_file "$SL_DIR/run/slurmctld.pid")" "slurmctld -f $SLURM_CONF" || slurmctld -f "$SLURM_CONF" </dev/null
  local n; for n in $(nodes); do boot "$n"; done
  local end=$((SECONDS + 60))
  while [ $SECONDS -lt $end ]; do
    alive "$(pidof_file "$SL_DIR/run/slurmctld.pid")" "slurmctld -f $SLURM_CONF" || { sleep 0.3
      alive "$(pidof_file "$SL_DIR/run/slurmctld.pid")" "slurmctld -f $SLURM_CONF" || die "slurmctld died: $(grep -aE 'fatal' "$SL_DIR/log/slurmctld.log" | tail -1)"; }
    [ "$(timeout 5 sinfo -h -N -p "${SL_PARTS%% *}" -t idle,alloc,mix -o %N 2>/dev/null | sort -u | wc -l)" = "$SL_NODES" ] && { say "up: $SL_NODES nodes ($SL_MODE)"; return 0; }
    sleep 0.2
  done
  timeout 5 sinfo -N -l >&2 || true; die "nodes did not come up; logs in $SL_DIR/log"
}

down() {
  local n
  if ctl_up; then
    squeue -h -o %A | sort -u | xargs -r scancel 2>/dev/null || true
    for _ in $(seq 60); do [ -z "$(squeue -h -o %A 2>/dev/null)" ] && break; sleep 0.25; done
  fi
  for n in $(nodes); do
    [ "$SL_MODE" = plain ] && stop_pid "$(pidof_file "$SL_DIR/run/slurmd.$n.pid")" "slurmd -f $SLURM_CONF -N $n"
    crash "$n"
    stop_pid "$(pidof_file "$SL_DIR/run/ns.$n.pid")" "slurm_local-$n $SL_DIR"
  done
  stop_pid "$(pidof_file "$SL_DIR/run/slurmctld.pid")" "slurmctld -f $SLURM_CONF"
  stop_pid "$(pidof_file "$SL_DIR/run/slurmdbd.pid")" slurmdbd
  stop_pid "$(pidof_file "$SL_DIR/run/mariadbd.pid")" "$SL_DIR/db"
  stop_pid "$(pidof_file "$SL_DIR/munge/pid")" "$SL_DIR/munge/run/socket"
  [ "$SL_MODE" != ns ] || ip link del slbr0 2>/dev/null || true
  hosts_del
  rm -rf "$SL_DIR/gpu" "$SL_DIR"/{state,spool,run,munge/run,db}/* "$SL_DIR/settings"
  say down
}

# one action at a time (pytest-xdist); -o: daemons must not inherit the lock
if [ -z "${SL_LOCKED:-}" ] && [[ " install up down boot crash " == *" ${1:-} "* ]]; then
  mkdir -p "$SL_DIR"; SL_LOCKED=1 exec flock -o "$SL_DIR/lock" "$BASH" "$0" "$@"
fi
unset SL_LOCKED
case "${1:-}" in
  install | up | down) "$1" ;;
  boot | crash) "$1" "$2" ;;
  cut) ip link set "slv${2#node}" down ;;
  join) ip link set "slv${2#node}" up ;;
  status) scontrol ping; sinfo -N -l; squeue ;;
  env) echo "export SLURM_CONF=$SLURM_CONF" ;;
  *) sed -n '2,/^set -/p' "$0" | sed '$d'; exit 2 ;;
esac
