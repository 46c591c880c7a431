"""Small helpers: files that are whole or absent, signals, processes, how numbers are shown."""
