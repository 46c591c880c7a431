"""A study's workers on an engine that starts processes: on Slurm, on Ray, on this machine."""
