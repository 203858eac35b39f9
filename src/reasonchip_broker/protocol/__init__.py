"""Bytes into packets and packets into bytes, for both wire protocols; no I/O."""
