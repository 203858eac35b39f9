"""A simulator: a whole broker's life in memory, from a seed, with every promise of `semantics.md` checked after every step."""
