"""What the gateway reads of pools and pods, and what it says of those it cannot read."""

import pytest

from sluice_gateway.objects import (
    UNDECIDED,
    ObjectError,
    Parity,
    parse_pool_decision,
    parse_pool_spec,
    parse_worker,
)

from . import objects


def test_reads_a_pool():
    spec = parse_pool_spec(objects.pool(created=1_763_900_000))
    assert (spec.key, spec.model, spec.variants) == ("default/chat", "compact", ("maia", "gpu"))
    assert (spec.slo.ttft, spec.slo.tpot) == (2.0, 0.2)
    assert spec.created == 1_763_900_000


def test_reads_how_answers_are_compared():
    raw = objects.pool()
    assert parse_pool_spec(raw).parity is None
    raw["spec"]["parity"] = {"sample": "1%", "budget": "2%"}
    assert parse_pool_spec(raw).parity == Parity(sample=0.01, budget=0.02)
    raw["spec"]["parity"] |= {"shadow": "5%"}
    assert parse_pool_spec(raw).parity == Parity(sample=0.01, budget=0.02, shadow=0.05)
    raw["spec"]["parity"] = {"sample": "much", "budget": "2%"}
    with pytest.raises(ObjectError, match=r"spec\.parity: 'much' is not a percentage"):
        parse_pool_spec(raw)


def test_reads_shares_and_quarantine():
    raw = objects.pool(shares={"maia": "30%", "gpu": "70%"}, quarantined=["chat-maia-1"])
    decision = parse_pool_decision(raw)
    assert decision.shares == {"maia": pytest.approx(0.3), "gpu": pytest.approx(0.7)}
    assert decision.quarantined == {"chat-maia-1"}


def test_shares_that_do_not_add_up_are_scaled():
    decision = parse_pool_decision(objects.pool(shares={"maia": "30%", "gpu": "30%"}))
    assert decision.shares == {"maia": 0.5, "gpu": 0.5}


@pytest.mark.parametrize("status", [None, {}, {"variants": []}, {"conditions": []}])
def test_without_a_decision_nothing_is_decided(status):
    assert parse_pool_decision({**objects.pool(), "status": status}) == UNDECIDED


def test_shares_that_are_all_zero_decide_nothing_but_quarantine():
    raw = objects.pool(shares={"maia": "0%"}, quarantined=["chat-maia-1"])
    decision = parse_pool_decision(raw)
    assert decision.shares == {}
    assert decision.quarantined == {"chat-maia-1"}


def test_fields_of_a_newer_version_are_ignored():
    raw = objects.pool(shares={"maia": "100%"})
    raw["spec"]["novelty"] = {"deep": [1]}
    raw["status"]["variants"][0]["mood"] = "good"
    assert parse_pool_spec(raw).model == "compact"
    assert parse_pool_decision(raw).shares == {"maia": 1.0}


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("spec", "slo", "ttft"), "soon", "spec.slo: 'soon' is not a duration"),
        (("spec", "slo"), None, "spec.slo should be a dict, but is None"),
        (("spec", "model", "name"), "", "spec.model.name should be a str"),
        (("spec", "variants"), "maia", "spec.variants should be a list"),
        (("spec", "variants"), ["maia"], "spec.variants is not an object: 'maia'"),
        (("spec",), [], "spec should be a dict"),
        (("metadata", "creationTimestamp"), "then", "'then' is not a time"),
        (("metadata", "namespace"), None, "metadata.namespace should be a str"),
    ],
)
def test_a_bad_pool_is_named(path, value, sentence):
    raw = objects.pool()
    *parents, field = path
    target = raw
    for parent in parents:
        target = target[parent]
    target[field] = value
    with pytest.raises(ObjectError, match=sentence):
        parse_pool_spec(raw)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ("fine", "status is not an object"),
        ({"variants": {"maia": 1}}, "status.variants is not a list"),
        ({"variants": ["maia"]}, "status.variants is not an object"),
        ({"variants": [{"share": "30%"}]}, "acceleratorClass should be a str"),
        ({"variants": [{"acceleratorClass": "m", "share": 0.3}]}, r"\[m\].share: 0.3 is not a per"),
        ({"variants": [{"acceleratorClass": "m", "quarantined": "p"}]}, "not a list of pod names"),
    ],
)
def test_a_bad_status_is_named(status, sentence):
    with pytest.raises(ObjectError, match=sentence):
        parse_pool_decision({**objects.pool(), "status": status})


def test_reads_a_worker():
    pod = parse_worker(objects.worker("w1", host="10.0.0.1", port=9000))
    assert (pod.pool, pod.variant) == ("default/chat", "maia")
    assert (pod.host, pod.port, pod.ready) == ("10.0.0.1", 9000, True)


def test_containers_ready_counts_not_ready():
    raw = objects.worker("w1")
    raw["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    assert not parse_worker(raw).ready


@pytest.mark.parametrize("change", [{"ready": False}, {"deleting": True}, {"host": ""}])
def test_a_worker_that_is_not_ready(change):
    assert not parse_worker(objects.worker("w1", **change)).ready


def test_a_pod_without_a_port_name_has_the_usual_port():
    raw = objects.worker("w1")
    raw["spec"]["containers"][0]["ports"] = [{"containerPort": 1}]
    assert parse_worker(raw).port == 8000


def test_a_bad_worker_is_named():
    raw = objects.worker("w1")
    del raw["metadata"]["labels"]["sluice.dev/pool"]
    with pytest.raises(ObjectError, match=r"sluice.dev/pool should be a str"):
        parse_worker(raw)
    with pytest.raises(ObjectError, match="port http has the number 70000"):
        parse_worker(objects.worker("w1", port=70000))
