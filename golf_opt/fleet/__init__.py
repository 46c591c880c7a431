"""Starts a study's workers on this machine, Slurm or Ray, and watches over them."""
