"""`python -m golf_opt` is `golf-opt`."""

import atexit
import gc

# What start-up makes stays to the end. To look for garbage in it again and again, and once more
# when the interpreter leaves, is a third of the time that a command takes around its work.
gc.set_threshold(50_000, 20, 100)
atexit.register(gc.freeze)

from golf_opt.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
