"""`python -m golf_opt` is `golf-opt`."""

import atexit
import gc
import sys

# What start-up makes stays to the end. To look for garbage in it again and again, and once more
# when the interpreter leaves, is a third of the time that a command takes around its work.
gc.set_threshold(50_000, 20, 100)


@atexit.register
def leave_without_a_search() -> None:
    if "torch" not in sys.modules:  # which has its own account of what is left, on stderr
        gc.freeze()


from golf_opt.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main()
