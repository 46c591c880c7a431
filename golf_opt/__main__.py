"""`python -m golf_opt` is `golf-opt`."""

import gc

# What start-up makes stays; to look for garbage in it again and again is a fifth of its time.
gc.set_threshold(50_000, 20, 100)

from golf_opt.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
