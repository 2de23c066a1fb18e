#!/bin/sh
# Runs before every task, as its user and in its environment: keeps what the task sees of the GPUs.
echo "$SLURM_JOB_ID $SLURM_STEP_ID ${CUDA_VISIBLE_DEVICES-unset}" >> "$(dirname "$0")/log/tasks"
