"""Signals of several gateways add up; an answer that is missing makes all of them missing."""

import pytest
from pydantic import ValidationError

from sluice.model.keys import PoolKey
from sluice.observe.signals import GatewayReport, merge_reports

KEY = PoolKey("default", "chat")


def report(*, arrived=10, failures=0, seconds=30.0, bounds=(1.0, 2.0), version=1, worker=None):
    variant = {
        "sent": arrived,
        "finished": arrived,
        "met": arrived,
        "inflight": 1,
        "oldestPendingSeconds": 0.5,
        "ttft": [arrived, 0, 0],
        "tpot": [arrived, 0, 0],
    }
    worker = {"consecutiveFailures": failures, "pod": "chat-maia-1", "variant": "maia"} | (
        worker or {}
    )
    pool = {
        "arrived": arrived,
        "finished": arrived,
        "met": arrived,
        "failed": 0,
        "rejected": 0,
        "waiting": 1,
        "promptTokens": 100,
        "outputTokens": 50,
        "variants": {"maia": variant},
        "workers": {"w1": worker},
    }
    return GatewayReport.model_validate(
        {
            "version": version,
            "observedSeconds": seconds,
            "bounds": {"ttft": bounds, "tpot": bounds},
            "pools": {"default/chat": pool, "nonsense": pool},
        }
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"seconds": -1.0},
        {"arrived": -5},
        {"bounds": ()},
        {"bounds": (1.0, 2.0, 3.0)},
    ],
    ids=["not a number", "endless", "backwards", "fewer than none", "no bounds", "other bounds"],
)
def test_a_report_that_does_not_add_up_is_refused(wrong):
    with pytest.raises(ValidationError):
        report(**wrong)


def test_counts_of_two_gateways_add_up():
    merged = merge_reports([report(), report(arrived=4, seconds=12.0)], 7.0, complete=True)
    pool = merged.pools[KEY]
    assert (pool.arrived, pool.waiting, pool.prompt_tokens) == (14, 2, 200)
    assert pool.seconds == 12.0
    assert pool.variants["maia"].ttft.counts == (14, 0, 0)


def compare_with(audits, divergence):
    """Return a report with what was compared of a worker, and of a pair of classes."""
    found = {"audits": audits, "positions": 99, "judged": 50, "agreed": 49}
    found["divergence"] = divergence
    one = report(worker={"parity": found}).model_dump(by_alias=True)
    one["pools"]["default/chat"]["parity"] = [{"class": "maia", "reference": "gpu", **found}]
    return GatewayReport.model_validate(one)


def test_what_two_gateways_compared_adds_up():
    reports = [compare_with(3, 0.25), compare_with(4, 0.5), report()]
    merged = merge_reports(reports, 7.0, complete=True)
    (pair,) = merged.pools[KEY].parity
    assert (pair.accelerator_class, pair.reference) == ("maia", "gpu")
    for found in (pair.found, merged.workers["w1"].parity):
        assert (found.audits, found.judged, found.agreed, found.divergence) == (7, 100, 98, 0.75)


def test_what_was_mirrored_by_two_gateways_adds_up_and_nothing_is_nothing():
    told = {"finished": 3, "failed": 1, "ttft": [2, 1, 0], "tpot": [3, 0, 0]}
    reports = [report(worker={"shadow": told}), report(worker={"shadow": told}), report()]
    shadow = merge_reports(reports, 7.0, complete=True).workers["w1"].shadow
    assert (shadow.finished, shadow.errors, shadow.ttft.counts) == (6, 2, (4, 2, 0))
    assert merge_reports([report()], 7.0, complete=True).workers["w1"].shadow is None
    with pytest.raises(ValidationError, match="worker w1 has 1 counts of TTFT"):
        report(worker={"shadow": told | {"ttft": [1]}})


def test_a_pool_name_that_is_none_is_left_out():
    assert set(merge_reports([report()], 7.0, complete=True).pools) == {KEY}


def test_incomplete_signals_are_missing_but_failures_still_speak():
    merged = merge_reports([report(failures=3), report(failures=1)], 7.0, complete=False)
    assert not merged.complete
    assert merged.pools == {}
    assert merged.failures == {"w1": 3}


def test_histograms_of_other_bounds_are_not_mixed():
    merged = merge_reports([report(), report(arrived=40, bounds=(3.0, 4.0))], 7.0, complete=True)
    assert merged.pools[KEY].variants["maia"].ttft.counts == (40, 0, 0)


def test_what_was_measured_of_a_worker_adds_up_over_the_gateways():
    reports = [
        report(worker={"finished": 3, "errors": 1, "ttft": [3, 0, 0], "tpot": [3, 0, 0]}),
        report(worker={"finished": 2, "timeouts": 4}),
    ]
    seen = merge_reports(reports, 9.0, complete=True).workers["w1"]
    assert (seen.finished, seen.errors, seen.timeouts) == (5, 1, 4)
    assert seen.ttft.counts == (3, 0, 0)


def test_a_worker_s_counts_that_do_not_fit_their_bounds_are_refused():
    with pytest.raises(ValidationError, match="worker w1 has 0 counts of TTFT and 1 of TPOT"):
        report(worker={"tpot": [1]})
