"""The words of the design. Import the modules you need: this file stays empty, so that `core.discover` never loads torch."""
