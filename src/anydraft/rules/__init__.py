"""One verification rule per file."""
