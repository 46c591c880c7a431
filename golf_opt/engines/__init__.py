"""Engines train trials in lanes; `base` is what the study loop knows of them."""
