"""Celery with the same body: prefork, acknowledged late, reused processes."""

import os
import sys
from pathlib import Path

from celery import Celery

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tasks import probe

app = Celery("bench", broker=os.environ["BENCH_REDIS"], backend=os.environ["BENCH_REDIS"])
app.conf.task_acks_late = True
record = app.task(probe.record, name="record")
