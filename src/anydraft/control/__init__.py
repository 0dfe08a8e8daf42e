"""One lookahead policy per file."""
