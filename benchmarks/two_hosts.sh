#!/usr/bin/env bash
# `ray up` for real, on machines made of namespaces: a laptop, a head and two workers with an sshd, an address, a home, a
# /tmp and processes of their own, and one folder that they share. docs/cluster/local.yaml is brought up with
# the values that it marks EDIT, a search runs as a job, a worker is killed in its middle, MLflow is asked through ssh.
#
#   sudo benchmarks/two_hosts.sh [transcript.txt]      # Linux; needs openssh-server, rsync and `uv sync --extra cluster`
#
# Everything is inside one namespace of processes, mounts and networks: when the script ends, however it ends, the kernel
# ends all of it. Nothing is seen from outside, and no packet leaves.
set -euo pipefail

# -- outside: make the namespace of the whole -------------------------------------------------------------------------

if [ -z "${RAYMETA_HOSTS:-}" ]; then
  for tool in sshd rsync ip unshare; do
    PATH=$PATH:/usr/sbin:/sbin command -v $tool > /dev/null || { echo "$0: needs $tool" >&2; exit 2; }
  done
  REPO=$(cd "$(dirname "$0")/.." && pwd)
  [ -x "$REPO/.venv/bin/ray" ] || { echo "$0: run uv sync --extra cluster first" >&2; exit 2; }
  PYTHON=$("$REPO/.venv/bin/python" -c 'import sys; print(sys.base_prefix)')
  RAYMETA_HOSTS=$(mktemp -d /var/tmp/raymeta-hosts.XXXXXX)
  export REPO PYTHON RAYMETA_HOSTS
  : > "$RAYMETA_HOSTS/transcript"
  finish() { kill -9 "$whole" 2> /dev/null || true; wait; rm -rf "$RAYMETA_HOSTS"; }
  trap finish EXIT
  trap 'exit 130' INT TERM
  # pdeathsig and kill-child: what this process does not live to end, the kernel ends.
  env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8 \
    REPO="$REPO" PYTHON="$PYTHON" RAYMETA_HOSTS="$RAYMETA_HOSTS" setpriv --pdeathsig KILL \
    unshare --net --mount --pid --uts --ipc --fork --kill-child --mount-proc \
    bash "$REPO/benchmarks/two_hosts.sh" laptop < /dev/null &
  whole=$! code=0
  wait $whole || code=$?
  [ -z "${1:-}" ] || sed "s|$REPO|/srv/raymeta|g" "$RAYMETA_HOSTS/transcript" > "$1"  # whose machine it was says nothing
  exit $code
fi

# -- what every machine is made of ------------------------------------------------------------------------------------

make_machine() {  # NAME: own home, /tmp, /run and /dev/shm; of the outside only the environment and ~/studies
  hostname "$1"
  mount --make-rprivate /
  local keep=$RAYMETA_HOSTS/$1.keep
  mkdir -p "$keep/repo" "$keep/python" "$RAYMETA_HOSTS/studies"
  mount --rbind "$REPO" "$keep/repo"
  mount --rbind "$PYTHON" "$keep/python"
  mount -t tmpfs -o size=2g tmpfs /root
  mount -t tmpfs -o size=2g,mode=1777 tmpfs /tmp
  mount -t tmpfs tmpfs /run
  mount -t tmpfs -o size=1g,mode=1777 tmpfs /dev/shm
  mkdir -p "$REPO" "$PYTHON" /root/studies /root/.ssh /run/sshd
  mount --move "$keep/repo" "$REPO"
  mount --move "$keep/python" "$PYTHON"
  mount -o remount,bind,ro "$REPO"
  mount --bind "$RAYMETA_HOSTS/studies" /root/studies
  chmod 700 /root /root/.ssh
  touch /root/.bashrc
  ip link set lo up
}

if [ "$1" != laptop ]; then  # a machine of the cluster: wait for its cable, then listen
  make_machine "$1"
  cp "$RAYMETA_HOSTS/key.pub" /root/.ssh/authorized_keys
  until ip link show eth0 > /dev/null 2>&1; do sleep 0.1; done
  ip address add "$2/24" dev eth0
  ip link set eth0 up
  ip route add default via 10.77.0.1  # leads nowhere, but by it Ray sees which address is its own
  /usr/sbin/sshd -D -f /dev/null -h "$RAYMETA_HOSTS/host_key" -o UsePAM=no -o UseDNS=no -o PidFile=none &
  wait
  exit
fi

# -- the laptop: wires the machines, then is the user -----------------------------------------------------------------

OUT=$RAYMETA_HOSTS/transcript
started=$SECONDS
say() { echo "# $((SECONDS - started)) s: $*" | tee -a "$OUT"; }
shown() {  # a command as the user types it, and what it says without Ray's hints and debugging
  local typed="$*"
  echo "\$ ${typed// --log-style pretty --log-color false/}" | tee -a "$OUT"
  "$@" 2>&1 | sed -u -E -e 's/\r|\x1b[[][0-9;]*m//g' \
    -e '/^Next steps/,/(If connection to the dashboard|ray job stop)/d' -e '/^Note: The output above/,/monitor\*/d' \
    -e '/INFO (node_provider|job_manager|sdk)|Shared connection|^Warning: Perm|[Uu]sage stats|^-+$|load average|^ *$/d' \
    -e '/^(Job submission server|Tailing logs|File Mount:| To ensure this)|[[]hash=/d' -e '/^Status message/,$d' \
    -e '/^Traceback/,/^[A-Za-z_.]+(Error|Exception)/{/^[A-Za-z_.]+(Error|Exception)/!d}' -e 's/^(.{230}).*/\1…/' | tee -a "$OUT"
}

ssh-keygen -q -t ed25519 -N '' -f "$RAYMETA_HOSTS/key"
ssh-keygen -q -t ed25519 -N '' -f "$RAYMETA_HOSTS/host_key"
make_machine laptop
mkdir -p /root/.ssh && cp "$RAYMETA_HOSTS/key" /root/.ssh/id_ed25519
ip link add br0 type bridge
ip address add 10.77.0.1/24 dev br0
ip link set br0 up

declare -A MACHINE
boot() {  # NAME ADDRESS
  unshare --net --mount --pid --uts --ipc --fork --kill-child --mount-proc bash "$REPO/benchmarks/two_hosts.sh" "$1" "$2" \
    > "$RAYMETA_HOSTS/$1.log" 2>&1 &
  MACHINE[$1]=$!
  until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
  ip link add "to-$1" type veth peer name eth0 netns $!
  ip link set "to-$1" master br0 up
}
boot head 10.77.0.2
boot worker1 10.77.0.3
boot worker2 10.77.0.4
for i in 2 3 4; do
  until (exec 3<> /dev/tcp/10.77.0.$i/22) 2> /dev/null; do sleep 0.2; done
done

export PATH=$REPO/.venv/bin:$PATH RAYMETA_STUDIES=/root/studies RAY_AUTH_MODE=token RAY_UP_enable_autoscaler_v2=0
export PYTHONUNBUFFERED=1
cd "$REPO"
python - << 'PYTHON' > /root/mine.yaml
import os

import yaml

config = yaml.safe_load(open("docs/cluster/local.yaml"))
config["provider"] = {"type": "local", "head_ip": "10.77.0.2", "worker_ips": ["10.77.0.3", "10.77.0.4"]}
config["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
# The machines have no network to install from: they are given the environment that is there.
config["setup_commands"][:2] = [f"ln -sfn {os.environ['REPO']}/.venv ~/raymeta/.venv"]
# Of the 2 cores that all machines see, a worker takes one.
small = " --object-store-memory=100000000"
config["head_start_ray_commands"][1] += small
config["worker_start_ray_commands"][1] += " --num-cpus=1" + small
print(yaml.safe_dump(config, sort_keys=False, width=1000))
PYTHON

echo "# $(date -u +%F), $(ray --version), all machines on the same $(nproc) cores" | tee -a "$OUT"
say "head 10.77.0.2 takes no trials; worker1 10.77.0.3 and worker2 10.77.0.4 take one at a time"
ray get-auth-token --generate > /dev/null
started=$SECONDS
shown ray up /root/mine.yaml --yes --no-config-cache --log-style pretty --log-color false
on() { ssh -o StrictHostKeyChecking=no -o LogLevel=ERROR root@"$1" "${@:2}"; }
on 10.77.0.2 -f -N -L 8265:127.0.0.1:8265 -L 5000:127.0.0.1:5000
until on 10.77.0.2 'bash -ic "ray status" 2> /dev/null' | grep -q '/2.0 CPU'; do sleep 1; done
say "both workers have joined"
export RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265  # both pages of the head are reached through ssh
job() { shown ray job submit --log-style pretty --log-color false -- "$@"; }

refused=$(RAY_AUTH_MODE=disabled ray job list 2>&1 | grep -i -m 1 -E 'token|unauth' || true)
say "without the token: ${refused:-ray job list is answered}"
job raymeta doctor --task glyphs-5w1s || say "the doctor ends with an error: no machine has the data yet; a search packs them"
shown ray job submit --no-wait --submission-id search --log-style pretty --log-color false -- \
  raymeta search maml+dropgrad --task glyphs-5w1s --preset smoke -n 12 --name hosts \
  budget.outer_steps=54 study.first_rung=18 model.width=16 outer.tasks_per_step=2
journal=/root/studies/hosts/journal.log
told_by() { { grep "\"hostname\":\"$1\"" $journal 2> /dev/null || true; } | grep -o '"trial_id":[0-9]*' | sort -u | wc -l; }
until [ "$(told_by worker1)" -ge 2 ] && [ "$(told_by worker2)" -ge 3 ]; do
  sleep 0.5
  [ $((SECONDS - started)) -lt 900 ] || { say "worker2 never came to its third trial"; exit 1; }
done
kill -9 "$(pgrep -P "${MACHINE[worker2]}")"
say "worker2 is dead: all its processes killed, its network gone, in the middle of a trial"
shown ray job logs search --follow --log-style pretty --log-color false
say "the search is over"

say "MLflow on the head, asked from the laptop through ssh:"
MLFLOW_TRACKING_URI=http://127.0.0.1:5000 python - << 'PYTHON' | tee -a "$OUT"
from mlflow import MlflowClient

client = MlflowClient()
experiment = client.get_experiment_by_name("hosts")
runs = client.search_runs([experiment.experiment_id])
(parent,) = [run for run in runs if run.data.tags["raymeta.kind"] == "study"]
trials = [run for run in runs if run.data.tags["raymeta.kind"] == "trial"]
files = [file.path for file in client.list_artifacts(parent.info.run_id)]
tags = parent.data.tags
print(f"{tags['raymeta.study']}: {parent.info.status}, {len(trials)} trials, best {tags['raymeta.best_trial']}, {files}")
print("trial  state      status    outer steps  hosts")
for run in sorted(trials, key=lambda run: int(run.data.tags["raymeta.trial"])):
    tags, steps = run.data.tags, run.data.metrics.get("outer_steps_done", 0)
    row = [f"{tags['raymeta.trial']:>5}", f"{tags['raymeta.state']:<9}", f"{run.info.status:<8}", f"{steps:>11.0f}"]
    print("  ".join([*row, tags.get("raymeta.hosts", "-")]))
PYTHON
job raymeta doctor --task glyphs-5w1s
job raymeta export hosts -o /root/studies/best.yaml
shown ray rsync-down /root/mine.yaml /root/studies/best.yaml /root/best.yaml --log-style pretty --log-color false
shown head -n 12 /root/best.yaml
shown ray down /root/mine.yaml --yes --log-style pretty --log-color false
left() { on "$1" 'pgrep -c raylet' || true; }
say "after ray down: $(left 10.77.0.2) raylets on the head, $(left 10.77.0.3) on worker1"
on 10.77.0.3 'bash -ic "ray stop" > /dev/null 2>&1' || true
say "after ray stop on worker1: $(left 10.77.0.3) raylets there"
