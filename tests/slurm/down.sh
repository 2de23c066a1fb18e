#!/usr/bin/env bash
# Stop what up.sh has started, jobs included, and remove what it has written. Slurm stays installed.
set -uo pipefail
STATE=${NEURALIGN_SLURM:-/run/neuralign-slurm}

alive() { grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$1/status"; } # a container may have nobody who reaps zombies

stop() { # a daemon by its pid file, if that process is this daemon
    local pid
    pid=$(cat "$STATE/$1.pid" 2>/dev/null) || return 0
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ] || return 0
    kill "$pid" 2>/dev/null
    for _ in $(seq 100); do
        alive "$pid" || return 0
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null
}

if [ "$(readlink /etc/slurm/slurm.conf)" = "$STATE/slurm.conf" ] && [ -e "$STATE/slurmctld.pid" ]; then
    unset SLURM_CONF
    timeout 20 scancel --partition=main 2>/dev/null
    for _ in $(seq 30); do # until the processes of the jobs are gone
        [ -n "$(timeout 10 squeue --noheader --states=RUNNING,COMPLETING 2>/dev/null)" ] || break
        sleep 0.5
    done
fi
for daemon in slurmd slurmctld munged; do stop "$daemon"; done
for file in slurm.conf gres.conf; do
    [ "$(readlink "/etc/slurm/$file")" != "$STATE/$file" ] || rm -f "/etc/slurm/$file"
done
rm -rf "$STATE"
