"""What the switchboard is made of: routes, assignments, workers, the backlog, timers, effects; no I/O and no clock."""
