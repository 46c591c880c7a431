"""Which training ideas help nets this small: each tuned by itself, the best together, measured."""
