"""Trained again: the best trials on fresh seeds, and what the sources published."""
