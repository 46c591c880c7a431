"""Studies in SQLite or PostgreSQL: written behind, leased to workers, with checkpoints."""
