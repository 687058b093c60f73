"""What a replica says of its lake, and when it has nothing to say any more."""

from __future__ import annotations

from lakefeed.format.commit import State
from lakefeed.lake.garbage import Collected, GarbagePlan
from lakefeed.metrics.compactor import CompactorMetrics
from lakefeed.service.telling import Teller
from lakefeed.volume.base import Space

# Of the lake as it is now: the leader alone keeps looking.
OF_THE_LEADER = {
    "lakefeed_compactor_orphan_bytes",
    "lakefeed_compactor_write_amplification_ratio",
    "lakefeed_index_bytes",
    "lakefeed_index_entries",
    "lakefeed_index_segments",
    "lakefeed_scrub_corrupt_payloads",
    "lakefeed_snapshot_age_seconds",
    "lakefeed_snapshot_version",
    "lakefeed_volume_free_bytes",
}


def tell(teller: Teller) -> None:
    teller.moved(1, 1)
    teller.collected(Collected(GarbagePlan(None, ()), False), 7)
    teller.looked(State(), Space(10, 5, -1), 3)


def shown(metrics: CompactorMetrics) -> set[str]:
    samples = (sample for family in metrics.registry.collect() for sample in family.samples)
    return {sample.name for sample in samples} & OF_THE_LEADER


def test_a_replica_that_lost_its_lease_says_no_more_how_the_lake_is() -> None:
    metrics = CompactorMetrics()
    teller = Teller("lake", metrics)
    other = Teller("other", metrics)
    teller.leads(True, "us", 1)
    tell(teller)
    assert shown(metrics) == OF_THE_LEADER
    teller.leads(False, "them", 0)
    assert shown(metrics) == set()
    tell(teller)  # a job that ends after the lease was lost
    assert shown(metrics) == set()
    teller.leads(True, "us", 3)
    other.leads(True, "us", 1)
    tell(teller)
    tell(other)
    other.leads(False, "them", 0)
    for lake, free_bytes in (("lake", 5), ("other", None)):
        value = metrics.registry.get_sample_value("lakefeed_volume_free_bytes", {"lake": lake})
        assert value == free_bytes
