"""One lookahead policy per file. The folder is the registry: nothing is listed here."""
