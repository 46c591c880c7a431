"""Figures of studies and pictures of trials, as plain data, for a browser and on paper."""
