"""Studies are listed, removed, exported and imported."""
