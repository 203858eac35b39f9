"""The load generator: one process that holds all clients and all workers, as cheap as Python can be.

It speaks each protocol in raw bytes, with no client library. Frames are prepared in advance; only the id of a job is new in each. One
read is handled in one go: where it is made of whole frames of the usual size and kind, which a few strided slices tell, nothing is
parsed; otherwise `framing.py` takes it apart. Answers to one read leave in one write, and uvloop sends it at the end of the turn.

    spec.py          what the harness asks for
    framing.py       cutting a stream into frames, keeping only how each begins
    recorder.py      counting jobs and latencies over the steady window
    connection.py    one connection: opening, ready, lost
    closed_loop.py   clients that keep a number of jobs in flight, workers that answer at once
    ours.py          the binary protocol
    json_v0.py       the JSON protocol of existing ReasonChip peers
    nats.py          the NATS text protocol
    relay.py         the binary protocol, with nobody in between who speaks it
    gearman.py, redis.py, amqp.py    those of other brokers
    peers.py         which peers belong to which system
    load.py          the measurement: connect, warm up, measure
    open_loop.py     clients that send each job when it is due
    chunks.py        jobs that send progress, and clients that follow them
    idle.py          many connections that do nothing
    __main__.py      reads a spec on stdin, prints what was measured
"""
