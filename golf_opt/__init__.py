"""Find the smallest network that still does the job, and the training recipe that gets it there."""

__version__ = "0.2.0"
