"""One published drafter per file."""
