"""The task that Celery's workers run. Where Redis is, is in the environment: `BENCH_REDIS`."""

import os

from celery import Celery  # type: ignore[import-not-found]

app = Celery("bench", broker=os.environ["BENCH_REDIS"], backend=os.environ["BENCH_REDIS"])
app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"], worker_prefetch_multiplier=32)


@app.task(name="bench")  # type: ignore[untyped-decorator]
def bench(text: str) -> str:
    """Give back what comes."""
    return text
