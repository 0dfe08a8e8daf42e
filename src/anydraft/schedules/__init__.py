"""Who runs when: one schedule per file."""
