#!/usr/bin/env bash
# Bring up a one-node Slurm on loopback (Debian 12, root, no systemd needed): `up.sh`, later `down.sh`.
# Exit status 77, with the reason, where that is not possible; another one than 0 where it should have been.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
STATE=${NEURALIGN_SLURM:-/run/neuralign-slurm}
HOST=$(hostname -s)
export DEBIAN_FRONTEND=noninteractive

cannot() { echo "no Slurm here: $*"; exit 77; }

installed() { command -v munged slurmctld slurmd sbatch srun squeue scancel | wc -l | grep -qx 7; }

get() {
    command -v apt-get >/dev/null || cannot "it is not installed, and there is no apt-get"
    mkdir -p "$STATE"
    { timeout 120 apt-get -qq update &&
        timeout 300 apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends slurmctld slurmd slurm-client munge
    } >"$STATE/apt.log" 2>&1 || { tail -n 5 "$STATE/apt.log"; cannot "it is not installed, and apt-get cannot install it"; }
}

[ "$(id -u)" = 0 ] || cannot "its daemons are to be started by root"
installed || get
"$HERE/down.sh"
for file in slurm.conf gres.conf; do
    [ ! -e "/etc/slurm/$file" ] || cannot "/etc/slurm/$file is that of another Slurm"
done

failed() { # say why, and leave nothing
    timeout 10 sinfo --list-reasons
    tail -n 30 "$STATE"/log/*
    "$HERE/down.sh"
}
trap failed ERR
mkdir -p "$STATE/log" "$STATE/ctld" "$STATE/slurmd" /etc/slurm
chmod 755 "$STATE"
getent hosts "$HOST" >/dev/null || echo "127.0.0.1 $HOST" >>/etc/hosts

# the executor plugin takes SLURM_CONF from the environment of its jobs, so the files lie where Slurm looks by itself
for file in slurm.conf gres.conf; do
    sed "s|@STATE@|$STATE|g; s|@HOST@|$HOST|g" "$HERE/$file" >"$STATE/$file"
    ln -s "$STATE/$file" "/etc/slurm/$file"
done
install -m 755 "$HERE/prolog.sh" "$STATE/prolog.sh"
(umask 077 && head -c 1024 /dev/urandom >"$STATE/munge.key")
unset SLURM_CONF
timeout 30 munged --key-file="$STATE/munge.key" --socket="$STATE/munge.sock" --pid-file="$STATE/munged.pid" \
    --log-file="$STATE/log/munged.log" --seed-file="$STATE/munge.seed"
timeout 30 slurmctld -c
timeout 30 slurmd -c
for _ in $(seq 60); do
    [ "$(timeout 10 sinfo --noheader --format=%t 2>/dev/null)" != idle ] || break
    sleep 0.5
done
timeout 60 srun --ntasks=1 --gpus=1 true
