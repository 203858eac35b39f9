"""What our broker is compared with by `make bench-peers`, beside NATS: how each is installed, and how it is started.

relay.c          a byte relay in C: the floor under all brokers
servers.py       where the servers are found, and how each is started and ends
libraries.py     what a Python user would pick, through its own client library: ours, nats-py, Celery, Dask
client_load.py   the client process of each of them
our_worker.py, nats_worker.py, celery_app.py    what their workers run
"""
