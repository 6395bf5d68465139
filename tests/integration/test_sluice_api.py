"""What is invalid is refused at apply time with a sentence, and pydantic and the API server agree.

"Agree" is said of the object as the server normalised it, with strict field validation.
"""

import copy
import json

import pytest
import yaml
from pydantic import ValidationError

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.api.pool import InferencePoolSpec

POOL = {
    "model": {"name": "m", "source": {"path": "/models/compact"}},
    "slo": {"ttft": "2s", "tpot": "200ms", "objective": "99%"},
    "variants": [
        {"acceleratorClass": "maia-200", "min": 1, "max": 4},
        {"acceleratorClass": "h100", "max": 2},
    ],
}
CLASS = {
    "nodeSelector": {"sluice.dev/accelerator": "maia-200"},
    "resourceName": "sluice.dev/maia",
    "price": {"onDemand": "10.00"},
}
DROP = object()


def change(base, path, value):
    """Return the base with one field set (or dropped), by a path like `variants.0.min`."""
    document = copy.deepcopy(base)
    *parents, last = path.split(".")
    node = document
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    if value is DROP:
        del node[last]
    elif isinstance(node, list):
        node[int(last)] = value
    else:
        node[last] = value
    return document


# name, base, path, value, what the API server says (None: it is good)
CASES = [
    ("a plain pool", POOL, "priority", 0, None),
    ("a duration of several units", POOL, "slo.ttft", "1m30s", None),
    ("a fractional duration", POOL, "slo.tpot", "0.2s", None),
    ("a duration without a unit", POOL, "slo.ttft", "2", "should match"),
    ("a duration in days", POOL, "slo.ttft", "1d", "should match"),
    ("a number for a duration", POOL, "slo.ttft", 2, "must be of type string"),
    ("a TTFT of nothing", POOL, "slo.ttft", "0s", "must be longer than 0s"),
    ("a TPOT of nothing", POOL, "slo.tpot", "0ms", "must be longer than 0s"),
    ("an objective of 100%", POOL, "slo.objective", "100%", "both excluded"),
    ("an objective of 0%", POOL, "slo.objective", "0%", "both excluded"),
    ("an objective of 99.9%", POOL, "slo.objective", "99.9%", None),
    ("an objective above 100%", POOL, "slo.objective", "101%", "should match"),
    ("no SLO", POOL, "slo", DROP, "Required value"),
    ("min above max", POOL, "variants.0.min", 5, "must not be larger than max"),
    ("a negative min", POOL, "variants.0.min", -1, "greater than or equal to 0"),
    ("one class twice", POOL, "variants.1.acceleratorClass", "maia-200", "acceleratorClass twice"),
    ("no variant at all", POOL, "variants", [], "at least 1"),
    (
        "nothing may run",
        POOL,
        "variants",
        [{"acceleratorClass": "maia-200", "max": 0}],
        "max above 0",
    ),
    ("no max", POOL, "variants.0.max", DROP, "Required value"),
    ("a class name that no class can have", POOL, "variants.0.acceleratorClass", "A B", "match"),
    ("a share above 100%", POOL, "variants.0.maxShare", "130%", "should match"),
    ("a relative path", POOL, "model.source.path", "models", "should match"),
    ("a model without a name", POOL, "model.name", "", "should match"),
    ("an unknown nominal model", POOL, "model.emulation", {"nominal": "gpt"}, "Unsupported value"),
    (
        "a token scale of 0",
        POOL,
        "model.emulation",
        {"nominal": "llama-3.3-70b", "tokenScale": 0},
        "greater than or equal to 1",
    ),
    ("an unknown field", POOL, "autoscalling", {"mode": "Paused"}, "unknown field"),
    ("an unknown mode", POOL, "autoscaling", {"mode": "Off"}, "Unsupported value"),
    ("an empty command", POOL, "variants.0.template", {"command": []}, "at least 1"),
    ("a template", POOL, "variants.0.template", {"env": [{"name": "A", "value": "b"}]}, None),
    ("a plain class", CLASS, "devicesPerWorker", 2, None),
    ("a class that selects no label", CLASS, "nodeSelector", {}, "at least 1"),
    ("a resource without a domain", CLASS, "resourceName", "gpu", "should match"),
    ("a price in floats", CLASS, "price.onDemand", 10.5, "must be of type string"),
    ("a price below 0", CLASS, "price.onDemand", "-1", "should match"),
    (
        "a probe that outlives its period",
        CLASS,
        "health",
        {"liveness": {"period": "1s", "timeout": "2s"}},
        "must not be longer than period",
    ),
    ("an unknown profile", CLASS, "emulation", {"profile": "tpu"}, "Unsupported value"),
    ("an emulated class", CLASS, "emulation", {"profile": "h100", "startup": "60s"}, None),
]


def wrap(base, spec, name):
    kind = "InferencePool" if base is POOL else "AcceleratorClass"
    meta = {"name": name} | ({"namespace": "default"} if base is POOL else {})
    return {"apiVersion": "sluice.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": spec}


def dry_run(sluice, document):
    """Return what the API server says of a document, without keeping it."""
    return sluice.run(
        "create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-",
        stdin=yaml.safe_dump(document), check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("base", "path", "value", "said"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_pydantic_and_the_api_server_agree(sluice, base, path, value, said):
    spec = change(base, path, value)
    answer = dry_run(sluice, wrap(base, spec, "case"))
    model = InferencePoolSpec if base is POOL else AcceleratorClassSpec
    if said is None:
        model.model_validate(json.loads(answer)["spec"])
        return
    assert said in answer
    with pytest.raises(ValidationError):
        model.model_validate(spec)


@pytest.mark.parametrize(("base", "length"), [(POOL, 40), (CLASS, 20)], ids=["pool", "class"])
def test_a_name_too_long_for_children_is_refused(sluice, base, length):
    assert '"kind"' in dry_run(sluice, wrap(base, base, "n" * length))
    assert "metadata.name must be" in dry_run(sluice, wrap(base, base, "n" * (length + 1)))


def test_what_the_server_fills_in_is_what_pydantic_fills_in(sluice):
    filled = json.loads(dry_run(sluice, wrap(POOL, POOL, "case")))["spec"]
    assert InferencePoolSpec.model_validate(filled) == InferencePoolSpec.model_validate(POOL)
    filled = json.loads(dry_run(sluice, wrap(CLASS, CLASS, "case")))["spec"]
    assert AcceleratorClassSpec.model_validate(filled) == AcceleratorClassSpec.model_validate(CLASS)


@pytest.mark.parametrize("kind", ["ipool", "accel"])
def test_explain_teaches_every_field(sluice, kind):
    text = sluice.run("explain", kind, "--recursive")
    assert "<empty>" not in text
    assert "<no description>" not in sluice.run("explain", f"{kind}.spec")
