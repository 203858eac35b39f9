"""What our broker is compared with by `make bench-peers`, beside NATS: how each is installed, and how it is started.

relay.c          a byte relay in C: the floor under all brokers
servers.py       where the servers are found, and how each is started and ends
python_users.py  what a Python user would pick, through its own client library: Celery, Dask, and ours
celery_app.py    the task that Celery's workers run
"""
