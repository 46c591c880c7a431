"""What the native engine is measured against: other ways to run the same training steps."""
