"""Fakes and suites for those who test against the broker, shipped with it: a clock that obeys, a switchboard without a network."""
