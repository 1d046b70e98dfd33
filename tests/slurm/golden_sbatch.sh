#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --array=0-2,5%3
#SBATCH --constraint='a100&ib'
#SBATCH --cpus-per-task=8
#SBATCH --dependency=aftercorr:17
#SBATCH --error='/runs/my sweep/slurm/one/%A_%a_0_log.err'
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --job-name=sweep
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mail-type=END
#SBATCH --mem=122880M
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output='/runs/my sweep/slurm/one/%A_%a_0_log.out'
#SBATCH --partition=gpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=240

# setup
module load cuda/12
set +e
trap : TERM USR2 INT

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output '/runs/my sweep/slurm/one/%A_%a_%t_log.out' --error '/runs/my sweep/slurm/one/%A_%a_%t_log.err' --open-mode=append --kill-on-bad-exit=1 --wait=600 --cpus-per-task=8 apptainer exec --nv 'my image.sif' /opt/env/bin/python -u -m slurm.task '/runs/my sweep/slurm/one/payload_0.json'


# teardown
exec '/home/me/my env/bin/python' -m slurm.requeue '/runs/my sweep/slurm/one/payload_0.json' "$?"