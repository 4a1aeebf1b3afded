"""What Prometheus asks for. All of it is in the store, so that any web process tells the same of all workers.

https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as KIND
from prometheus_client.registry import Collector

from app.desk import Desk

__all__ = ["KIND", "text"]


def text(desk: Desk) -> bytes:
    """Everything, as it is now."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Stored(desk))
    return generate_latest(registry)


class _Stored(Collector):
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def collect(self) -> Iterator[Metric]:
        store = self._desk.store
        jobs = GaugeMetricFamily("jingxiang_jobs", "Jobs that wait or run", labels=["state"])
        for state, count in store.depth().items():
            jobs.add_metric([state], count)
        yield jobs
        ended = CounterMetricFamily("jingxiang_jobs_ended", "Jobs that have ended", labels=["state"])
        seconds = CounterMetricFamily("jingxiang_job_seconds", "What jobs that are done took")
        counted = store.totals()
        for state, number in counted.ended.items():
            ended.add_metric([state], number)
        seconds.add_metric([], counted.seconds)
        yield from (ended, seconds)
        labels = ["worker", "device", "model"]
        up = GaugeMetricFamily("jingxiang_worker_ready", "Whether a worker takes jobs", labels=labels)
        fast = GaugeMetricFamily("jingxiang_worker_compiled", "Whether its model runs compiled code", labels=labels)
        total = GaugeMetricFamily("jingxiang_worker_memory_bytes", "Memory of its device", labels=labels)
        free = GaugeMetricFamily("jingxiang_worker_memory_free_bytes", "Free memory of its device", labels=labels)
        for worker in store.workers():
            values = [worker.name, worker.device, worker.model]
            up.add_metric(values, worker.takes_jobs)
            if worker.speed:
                fast.add_metric(values, worker.speed == "compiled")
            if worker.space is not None:
                total.add_metric(values, worker.space.total_bytes)
                free.add_metric(values, worker.space.free_bytes)
        yield from (up, fast, total, free)
