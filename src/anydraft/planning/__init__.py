"""What will be fast, before it is run: latency tables, predictions, plans."""
