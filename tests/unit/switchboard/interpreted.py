"""Tests that reach into classes of the core need it interpreted: mypyc's classes can't be patched.

They run with the sources (`make test`). Where the compiled core is under test (`make test-compiled`) they are left out of the run: they
break the core on purpose, to see that it is noticed, or look at what a class is made of, and neither tells anything about that build.
"""

import pytest

import reasonchip_broker.switchboard as core

IS_COMPILED = not (core.__file__ or "").endswith(".py")

needs_interpreted_core = pytest.mark.needs_interpreted_core
