"""The other end of a connection to the broker, without I/O: what the client and the worker libraries share."""
