"""Proof, for anyone's parts: exact enumeration of output laws, statistical checks, tie audit, planted wrong rules."""

from anydraft.testing.exact import Script, exact_law, plain_law, total_variation

__all__ = ["Script", "exact_law", "plain_law", "total_variation"]
