"""optuna-dashboard over the studies, with figures of ours and a password."""

from golf_opt.utils.spared import import_importances

import_importances()  # optuna-dashboard would, with what takes half of the time to an address
