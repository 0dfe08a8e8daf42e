"""One published drafter per file. The folder is the registry: nothing is listed here."""
