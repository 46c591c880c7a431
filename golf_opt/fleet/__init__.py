"""Starts a study's workers on this machine, Slurm, Ray or Kubernetes, and watches over them."""
