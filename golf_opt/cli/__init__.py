"""The verbs of golf-opt, and how errors are told."""
