"""optuna-dashboard over the studies, with figures of ours and a password."""
