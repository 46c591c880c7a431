"""What Hydra composed becomes checked dataclasses; what is wrong is told here in one line."""
