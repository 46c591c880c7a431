"""`python -m golf_opt` is `golf-opt`."""

from golf_opt.cli import main

main()
