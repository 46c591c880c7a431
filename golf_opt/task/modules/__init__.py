"""Nets that users write as torch modules: found, traced into layers of ours, or kept as they are"""
