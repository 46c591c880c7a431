#!/usr/bin/env bash
# Workers as a Slurm array, one a task:   sbatch --array=1-8 docker/slurm.sh STUDY
#
# Wanted on every node: golf-opt (on PATH, or GOLF names it), MNIST in GOLF_DATA, and the storage:
#
#   export GOLF_STORAGE_URL=postgresql://golf@db.example.org/golf
#   export GOLF_STORAGE_PASSWORD_FILE=$HOME/.golf_password
#   export GOLF_DATA=$HOME/data
#
# A minute before the time limit Slurm sends SIGTERM: the worker checkpoints, puts its trials back
# into the queue and leaves; other workers, or the same command tomorrow, go on with them.

#SBATCH --job-name=golf-worker
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
#SBATCH --output=golf-worker-%A_%a.log

set -euo pipefail

if [ $# -ne 1 ]; then
  echo "usage: sbatch [--array=1-N] $0 STUDY" >&2
  exit 2
fi
: "${GOLF_STORAGE_URL:?set it to postgresql://USER@HOST/DATABASE}"

# in the place of this shell, so that the signal reaches the worker
exec "${GOLF:-golf-opt}" worker study="'$1'" storage=postgres \
  engine.lanes="${SLURM_CPUS_PER_TASK:-1}"
