"""Studies as one HTML page and as Markdown, alone or side by side."""
