"""What a trained net has learned, as pictures and a page."""
