"""One verification rule per file. The folder is the registry: nothing is listed here."""
