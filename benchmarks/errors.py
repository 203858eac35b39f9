"""What can go wrong in a benchmark, told in one line.

BenchError            anything: its text is one sentence for the person who runs it
└── Missing           something that must be installed or present is not: nothing can be measured
"""


class BenchError(Exception):
    """A measurement could not be made; the text says why."""


class Missing(BenchError):
    """Something that the harness needs is not on this machine; the text says what, and how to get it."""
