"""The metrics say what the status says, in the format that Prometheus reads, and nothing that identifies data."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from aliasfs.wire import AliasStatus, CacheStatus, DaemonStatus, KernelStatus
from mountd.metrics import metrics_text

STATUS = DaemonStatus(
    point="/mnt/aliases",
    pid=1,
    version="0",
    started_at=0,
    uptime_s=1,
    aliases=[
        AliasStatus(name="A", url="s3://secret-bucket/key", health="ok", requests=5, errors=1, bytes_read=77),
        AliasStatus(name="B", url="/b", health="failing", requests=2, errors=2),
        AliasStatus(name="C", url="/c"),
    ],
    cache=CacheStatus(state="on", used_bytes=10, budget_bytes=20, objects=3, hits=4, misses=5, bad_blocks=1),
    kernel=KernelStatus(requests={"read": 9, "lookup": 8}, errors={"EIO": 2, "ESTALE": 1}, open_inodes=6),
)


def _samples(status: DaemonStatus) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(metrics_text(status).decode())
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_every_number_of_the_status_has_a_name() -> None:
    samples = _samples(STATUS)
    assert samples["aliasfs_cache_used_bytes",] == 10
    assert samples["aliasfs_cache_budget_bytes",] == 20
    assert samples["aliasfs_cache_working",] == 1
    assert samples["aliasfs_cache_hits_total",] == 4
    assert samples["aliasfs_inodes",] == 6
    assert samples["aliasfs_requests_total", "read"] == 9
    assert samples["aliasfs_errors_total", "EIO"] == 2
    assert samples["aliasfs_store_requests_total", "A"] == 5
    assert samples["aliasfs_store_read_bytes_total", "A"] == 77
    assert {name: samples["aliasfs_store_up", name] for name in "ABC"} == {"A": 1, "B": 0, "C": 1}


def test_no_url_or_key_is_in_a_metric() -> None:
    assert b"secret-bucket" not in metrics_text(STATUS)


def test_a_mount_without_anything_has_metrics_too() -> None:
    empty = DaemonStatus(point="/m", pid=1, version="0", started_at=0, uptime_s=0)
    assert _samples(empty)["aliasfs_cache_working",] == 0
