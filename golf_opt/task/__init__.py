"""What is trained and on what: architectures, data, recipes, reproducible randomness."""
