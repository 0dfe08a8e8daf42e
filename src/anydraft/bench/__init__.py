"""What a claim of speed is measured with."""
