"""Exact oracles to hold algorithms against. Importing this imports no torch."""

from alignzoo.testing.token_mdp import TokenMDP

__all__ = ["TokenMDP"]
