"""The demo: a broker, three worker processes and a client do real work on real files, and a worker is killed midway.

`stage` runs it: `survey` chooses the files, `household` keeps the processes, `crew` sends the jobs, `incidents` makes the trouble,
`ledger` knows what became of each job, `progress` and `report` tell. What the workers do is in `jobs`, `measure` and `terms`.
"""
