"""Which nets of a front are of interest: effort spent on the others is lost.

The smallest nets of a family are on its front however bad they are, and there is no end of them. A
net that errs many times as often as the best one does not do the job; so where accuracy and size
are weighed it is neither promoted, nor raced, nor what a sampler takes for good.
"""

ERRORS = 4  # how many times as often as the best net one may err that is of interest


def floor_below(best: float) -> float:
    """Return the accuracy from which on a net is of interest, where `best` is the best one's."""
    return 1 - ERRORS * (1 - best)
