"""Runs a model fast; knows devices and caches, knows no method."""
