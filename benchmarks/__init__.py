"""What a job costs the broker, measured beside NATS in the same run: `python -m benchmarks`, or `make bench`.

The figure that counts is the **processor time of the broker process per job** (user and system, over a steady window), because it
belongs to the broker alone; jobs a second and latency also depend on the load generator. The broker is pinned to one core and the
generator, one process that holds every client and every worker, to another. Machines are shared and noisy, so a claim is a ratio:
ours and NATS take turns in every round, and medians are quoted with their spread. `docs/how-to/benchmark.md` tells how to read it.

One file, one idea:

    workloads.py      what is measured: protocol, kind of socket, number of peers, size of payload; and in which order
    brokers.py        starting a broker under test, ours or NATS
    nats_server.py    finding and starting NATS
    process.py        child processes: pinned, and never left behind
    procstat.py       what the kernel knows about a process: processor time, memory
    measure.py        one measurement: a fresh broker, one generator, one result
    generators/       the load generator, a process of its own: one module for each protocol
    stats.py          percentiles, medians, spreads, ratios
    summary.py        from the raw figures of all rounds to one line for each workload
    machine.py        the machine and the versions that the figures belong to
    report.py         the table and the JSON file

`python -m benchmarks.peers` measures the same beside others, which are in `peers/`.

`python -m benchmarks.chunks` measures chunks of progress, `python -m benchmarks.mixed` small jobs beside large ones,
`python -m benchmarks.rush` more jobs than can be done. Such programs share `in_turn.py`: the command line, rounds in turn.

`python -m benchmarks.scale` opens thousands of connections, and lets a million jobs wait.

`python -m benchmarks.starts` tells how long it takes to import the client, and to start a broker.

Beside it stand what is measured of the switchboard alone, without sockets, and pictures of it:

    fairness.py       how long a newcomer waits, and how weights become slot-time
    counts.py         how many instructions a job costs, compared with those in counts.json; what is counted is in counted.py
    steps.py          how many of them each step of a job is
    whole.py          how many a job is of a whole broker, loop and sockets too, where jobs come one by one
    growth.py         what a job costs as there is more of everything
    plots.py          what was measured drawn, for `docs/explanation/`
"""
