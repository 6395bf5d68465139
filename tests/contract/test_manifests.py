"""The manifests grant little, name what exists, and say how every number is known."""

import re
from pathlib import Path

import pytest
import yaml

from sluice.api.accelerator import AcceleratorClass
from sluice.api.pool import InferencePool
from sluice.control.settings import load_settings
from sluice.model.names import LABEL_NAME, PROBATION
from sluice.render.probation import slot_port
from sluice_accel.memory import choose_devices, startup_time
from sluice_accel.nominal import NOMINAL_MODELS
from sluice_accel.profiles import PROFILES
from sluice_accel.timing import StepBatch, step_time
from sluice_gateway.main import parse_arguments

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
PUBLISHED_CLAIM = 1.3
"""Performance per dollar of Maia 200 over an unnamed baseline (Microsoft, January 2026)."""
H200_PRICE = 10.60
"""Dollars per device-hour, recalled: Azure ND96isr_H200_v5."""


def read(*parts):
    return [each for each in yaml.safe_load_all(MANIFESTS.joinpath(*parts).read_text()) if each]


BASE = [
    document
    for path in sorted((MANIFESTS / "base").glob("*.yaml"))
    for document in read(path)
    if document["kind"] != "Kustomization"
]


def list_of(kind):
    return [document for document in BASE if document["kind"] == kind]


def is_selected(selector, labels):
    return selector.get("matchLabels", {}).items() <= labels.items()


def test_no_right_is_a_wildcard_or_a_way_to_more_rights():
    roles = [*list_of("ClusterRole"), *list_of("Role")]
    assert roles
    for role in roles:
        for rule in role["rules"]:
            words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert not words & {"*", "secrets", "pods/exec", "escalate", "bind", "impersonate"}
            # Probation pods are made in our own namespace; whoever makes pods elsewhere could use
            # the secrets and accounts there.
            ours = role["kind"] == "Role" and role["metadata"]["namespace"] == "sluice-system"
            assert ours or "pods" not in rule["resources"] or "create" not in rule["verbs"]


@pytest.mark.parametrize(
    ("component", "field", "secret"),
    [
        ("gateway-api-keys", "api_keys_dir", "sluice-gateway-keys"),
        ("gateway-tls", "tls_dir", "sluice-gateway-tls"),
    ],
)
def test_a_switched_on_secret_is_mounted_where_the_gateway_looks(component, field, secret):
    (kustomization,) = read("components", component, "kustomization.yaml")
    (patch,) = read("components", component, "deployment.yaml")
    operations = yaml.safe_load(kustomization["patches"][1]["patch"])
    arguments = [operation["value"] for operation in operations]
    directory = getattr(parse_arguments(["--host=x", *arguments]), field)
    spec = patch["spec"]["template"]["spec"]
    (volume,) = spec["volumes"]
    (mount,) = spec["containers"][0]["volumeMounts"]
    assert volume["secret"] == {"secretName": secret, "defaultMode": 0o440}
    assert (mount["name"], mount["mountPath"]) == (volume["name"], str(directory))
    assert mount["readOnly"]
    # Its own file mode lets only the pod's group read: the base says which that is.
    (deployment,) = (
        one for one in list_of("Deployment") if one["metadata"]["name"] == patch["metadata"]["name"]
    )
    base = deployment["spec"]["template"]["spec"]
    assert spec["securityContext"]["fsGroup"] == base["securityContext"]["runAsGroup"]
    assert spec["containers"][0]["name"] == base["containers"][0]["name"]


@pytest.mark.parametrize("place", ["base", "overlays/embedded"])
def test_a_gateway_may_drain_before_it_is_killed(place):
    (deployment,) = (
        one
        for one in read(place, "gateway.yaml")
        if one["kind"] == "Deployment" and one["metadata"]["name"] == "sluice-gateway"
    )
    pod = deployment["spec"]["template"]["spec"]
    told = parse_arguments(pod["containers"][0]["args"])
    needed = told.drain_delay + told.drain_seconds
    assert needed < pod["terminationGracePeriodSeconds"] <= needed + 30


def test_the_gateway_only_looks():
    (role,) = (r for r in list_of("ClusterRole") if r["metadata"]["name"] == "sluice-gateway")
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} <= {"get", "list", "watch"}


def test_accounts_that_get_rights_exist():
    accounts = {each["metadata"]["name"] for each in list_of("ServiceAccount")}
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        for binding in list_of(kind):
            assert {subject["name"] for subject in binding["subjects"]} <= accounts
    for deployment in list_of("Deployment"):
        assert deployment["spec"]["template"]["spec"]["serviceAccountName"] in accounts


def test_policies_name_pods_and_ports_that_exist():
    templates = [each["spec"]["template"] for each in list_of("Deployment")]
    for policy in list_of("NetworkPolicy"):
        if policy["metadata"]["name"] == "probation":
            continue  # the operator renders those pods
        selected = [
            template
            for template in templates
            if is_selected(policy["spec"]["podSelector"], template["metadata"]["labels"])
        ]
        assert selected
        ports = {
            port["name"] for each in selected for port in each["spec"]["containers"][0]["ports"]
        }
        named = {
            port["port"]
            for rule in policy["spec"].get("ingress", ())
            for port in rule.get("ports", ())
        }
        assert named <= ports


def test_probation_pods_can_be_asked_on_every_port_they_have():
    (policy,) = (p for p in list_of("NetworkPolicy") if p["metadata"]["name"] == "probation")
    assert policy["spec"]["podSelector"]["matchLabels"] == {LABEL_NAME: PROBATION}
    (ports,) = policy["spec"]["ingress"][0]["ports"]
    assert ports["port"] == slot_port(0)
    # A worker has at most 64 devices, and so a node at most that many slots.
    assert ports["endPort"] == slot_port(63)


def test_everything_is_denied_that_no_policy_allows():
    (deny,) = (p for p in list_of("NetworkPolicy") if p["metadata"]["name"] == "default-deny")
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("part", ["base", "overlays/embedded"])
def test_settings_can_be_read(part, tmp_path):
    (settings,) = read(part, "settings.yaml")
    path = tmp_path / "settings.yaml"
    path.write_text(settings["data"]["settings.yaml"])
    assert load_settings(path).worker_image == "sluice-worker:0.1.0"


def test_the_base_knows_nothing_of_the_embedded_cluster():
    text = "".join(path.read_text() for path in (MANIFESTS / "base").iterdir())
    for word in ("127.", "kubeconfig", "stable-address", "emulated", "hostPort", "hostNetwork"):
        assert word not in text


def test_samples_are_what_the_types_say():
    classes = [AcceleratorClass.model_validate(each) for each in read("samples", "classes.yaml")]
    (pool,) = (InferencePool.model_validate(each) for each in read("samples", "pool.yaml"))
    known = {each.metadata.name for each in classes}
    assert {variant.accelerator_class for variant in pool.spec.variants} == known
    assert all(each.spec.emulation is not None for each in classes)
    assert pool.spec.model.emulation is not None


def test_every_number_of_a_class_says_how_it_is_known():
    above = ""
    for line in (MANIFESTS / "samples/classes.yaml").read_text().splitlines():
        value, _, comment = line.partition("#")
        if not value.strip():
            above += comment
            continue
        if re.search(r": .*[0-9]", value) and not value.startswith(("apiVersion", "  name")):
            assert re.search("published|derived|assumed", above + comment), line
        above = ""


def test_the_assumed_price_of_maia_follows_from_its_rule():
    batch = StepBatch(prefill=(), decode=(1024,) * 32)
    nominal = NOMINAL_MODELS["llama-3.3-70b"]
    seconds = [step_time(PROFILES[name], nominal, 1, batch) for name in ("h200", "maia-200")]
    faster = seconds[0] / seconds[1]
    classes = [AcceleratorClass.model_validate(each) for each in read("samples", "classes.yaml")]
    prices = {each.metadata.name: float(each.spec.price.on_demand) for each in classes}
    assert prices["maia-200"] == pytest.approx(H200_PRICE * faster / PUBLISHED_CLAIM, abs=0.01)
    assert prices["h100"] == pytest.approx(98.32 / 8)


@pytest.mark.parametrize(
    "manifest", read("samples", "classes.yaml"), ids=lambda manifest: manifest["metadata"]["name"]
)
def test_the_samples_emulate_what_the_profiles_say(manifest):
    accelerator = AcceleratorClass.model_validate(manifest).spec
    pool = InferencePool.model_validate(read("samples", "pool.yaml")[0]).spec
    profile = PROFILES[accelerator.emulation.profile]
    model = NOMINAL_MODELS[pool.model.emulation.nominal]
    assert accelerator.devices_per_worker == choose_devices(profile, model, context=4096)
    # Runtime and weights; rounded for whoever reads it.
    assert accelerator.emulation.startup == pytest.approx(startup_time(profile, model), rel=0.1)
