"""alignzoo: a zoo of alignment algorithms and reward models on one rollout buffer and a C++ core.

Importing this package imports none of its dependencies; a name is imported when it is first used.
"""
