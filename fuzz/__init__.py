"""Random input for whatever reads what strangers send: `make fuzz`, or `python -m fuzz --help`.

- `decoders.py`: the two decoders, fed streams that are nearly right.
- `switchboard.py`: the switchboard, fed packets by peers that come, go, lie and fall silent.
- `choices.py`: how a string of bytes becomes decisions, so that one string is one run, which can be kept and replayed.
- `engines.py`: where the strings come from: atheris, guided by coverage, where it is installed; a plain mutator elsewhere.

Each target states the one thing that must hold in its docstring, and raises if it does not. `tests/property/test_decoders_fuzz.py` is
the short form that runs with every change.
"""
