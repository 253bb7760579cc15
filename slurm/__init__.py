"""Configs -> running jobs: what a cluster offers, the checks before a submission, the sbatch script, this machine."""
