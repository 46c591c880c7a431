"""Records: making, verifying and listing them."""
