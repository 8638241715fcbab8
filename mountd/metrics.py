"""The numbers of one mount in Prometheus' text format, made from the status when somebody asks.

Nothing is counted here: each room keeps its own statistics, and this one only gives them names
(https://prometheus.io/docs/practices/naming/). Labels hold alias names and operations, never keys or URLs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from aliasfs.wire import AliasStatus, DaemonStatus


class _Snapshot(Collector):
    """One status as metric families."""

    def __init__(self, status: DaemonStatus) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        yield from self._cache()
        yield from self._kernel()
        yield from self._stores()

    def _cache(self) -> Iterable[Metric]:
        cache = self._status.cache
        yield GaugeMetricFamily("aliasfs_cache_used_bytes", "Bytes the disk cache takes", cache.used_bytes)
        yield GaugeMetricFamily("aliasfs_cache_budget_bytes", "Bytes it may take", cache.budget_bytes)
        yield GaugeMetricFamily("aliasfs_cache_objects", "Object versions in it", cache.objects)
        yield GaugeMetricFamily("aliasfs_cache_working", "1 while the disk cache works", float(cache.state == "on"))
        for name, text, value in (
            ("hits", "Blocks read from the cache", cache.hits),
            ("misses", "Blocks that had to be fetched", cache.misses),
            ("bad_blocks", "Cached blocks that failed their checksum", cache.bad_blocks),
            ("fetched_bytes", "Bytes fetched from stores", cache.bytes_fetched),
            ("evicted_bytes", "Bytes given back", cache.evicted_bytes),
        ):
            yield CounterMetricFamily(f"aliasfs_cache_{name}", text, value)

    def _kernel(self) -> Iterable[Metric]:
        kernel = self._status.kernel
        yield GaugeMetricFamily("aliasfs_inodes", "Inodes the kernel knows", kernel.open_inodes)
        yield GaugeMetricFamily("aliasfs_node_table_bytes", "Size of the table of inodes", kernel.node_table_bytes)
        generation = self._status.generation
        yield CounterMetricFamily("aliasfs_servers_replaced", "Servers this mount had before this one", generation)
        requests = CounterMetricFamily("aliasfs_requests", "Requests of the kernel", labels=["operation"])
        for operation, count in sorted(kernel.requests.items()):
            requests.add_metric([operation], count)
        yield requests
        errors = CounterMetricFamily("aliasfs_errors", "Requests answered with an error", labels=["errno"])
        for name, count in sorted(kernel.errors.items()):
            errors.add_metric([name], count)
        yield errors

    def _stores(self) -> Iterable[Metric]:
        aliases = self._status.aliases
        yield _per_alias("requests", "Requests to the store", aliases, lambda alias: alias.requests)
        yield _per_alias("errors", "Requests to the store that failed", aliases, lambda alias: alias.errors)
        yield _per_alias("read_bytes", "Bytes read from the store", aliases, lambda alias: alias.bytes_read)
        up = GaugeMetricFamily("aliasfs_store_up", "0 while the latest request to the store failed", labels=["alias"])
        for alias in aliases:
            up.add_metric([alias.name], float(alias.health != "failing"))
        yield up


def _per_alias(name: str, text: str, aliases: list[AliasStatus], value: Callable[[AliasStatus], int]) -> Metric:
    family = CounterMetricFamily(f"aliasfs_store_{name}", text, labels=["alias"])
    for alias in aliases:
        family.add_metric([alias.name], value(alias))
    return family


def metrics_text(status: DaemonStatus) -> bytes:
    """Return *status* in the text format that Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(status))
    return generate_latest(registry)
