"""The study loop: ask, train in lanes, report, prune, tell; spaces, samplers, callbacks."""
