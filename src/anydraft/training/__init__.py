"""Training of drafters and controls: data, losses, one recipe per file."""
