"""Who runs when: one schedule per file. The folder is the registry: nothing is listed here."""
