"""Which sampler, pruner and way with seeds finds the better recipe at an equal budget, measured."""
