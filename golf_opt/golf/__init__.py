"""What one does with trained nets: prune, confirm, look inside, export, keep records."""
