"""Pools render to what the API server takes, the same every time, and nothing rolls for nothing."""

from dataclasses import replace

import pytest
import yaml

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.api.pool import POOL_NAME, InferencePoolSpec
from sluice.api.template import RESERVED_ENV
from sluice.model.keys import PoolKey
from sluice.model.names import deployment_name
from sluice.render.pool import digest_templates, render_pool

from .golden import (
    GOLDEN,
    IMAGE,
    make_plan,
    make_variant,
    read_classes,
    read_pool,
    render_sample,
    write_text,
)

POOL = read_pool()
CLASSES = read_classes()
MAIA = make_variant("maia-200")


def edit_pool(**variant):
    """Return the sample pool with its first variant edited."""
    document = POOL.model_dump(mode="json", by_alias=True, exclude_none=True)
    document["variants"][0] |= variant
    return InferencePoolSpec.model_validate(document)


def edit_class(name, **over):
    """Return the sample classes with one of them edited; None takes a field away."""
    document = CLASSES[name].model_dump(mode="json", by_alias=True, exclude_none=True) | over
    kept = {key: value for key, value in document.items() if value is not None}
    return {**CLASSES, name: AcceleratorClassSpec.model_validate(kept)}


def render(pool=POOL, classes=CLASSES, plan=None):
    return render_pool(plan or make_plan(MAIA), pool, classes, IMAGE)


def read_container(pool=POOL, classes=CLASSES):
    return render(pool, classes)[0]["spec"]["template"]["spec"]["containers"][0]


def read_pod(pool=POOL, classes=CLASSES):
    return render(pool, classes)[0]["spec"]["template"]["spec"]


def read_arguments(pool=POOL, classes=CLASSES):
    return dict(each.split("=", 1) for each in read_container(pool, classes)["args"])


def test_the_samples_render_as_they_did():
    assert write_text() == GOLDEN.read_text(), (
        "the rendered manifests changed; if that is meant: python tests/unit/render/golden.py"
    )


def test_two_renders_are_equal_and_share_nothing():
    first, second = render_sample(), render_sample()
    assert first == second
    first[0]["spec"]["template"]["spec"]["containers"][0]["env"].append("edited")
    assert second == render_sample()


def test_the_order_of_a_selector_rolls_nothing():
    selector = {"b": "2", "a": "1"}
    one = edit_class("maia-200", nodeSelector=selector)
    other = edit_class("maia-200", nodeSelector=dict(reversed(selector.items())))
    assert yaml.safe_dump(render(classes=one)) == yaml.safe_dump(render(classes=other))


@pytest.mark.parametrize(
    "plan",
    [
        make_plan(MAIA, generation=2),
        make_plan(replace(MAIA, wanted=4, serving=0, share=0)),
        make_plan(replace(MAIA, surge=False)),
        make_plan(replace(MAIA, paused=True)),
    ],
    ids=["an edit of the pool", "other counts", "no surge", "a pause"],
)
def test_what_changes_no_worker_rolls_none(plan):
    before, after = render()[0], render(plan=plan)[0]
    assert before["spec"]["template"] == after["spec"]["template"]
    assert before["metadata"]["annotations"] == after["metadata"]["annotations"]


def test_replicas_always_stand_in_the_deployment():
    deployments = [each for each in render_sample() if each["kind"] == "Deployment"]
    assert [each["spec"]["replicas"] for each in deployments] == [2, 0]


@pytest.mark.parametrize(("surge", "numbers"), [(True, (1, 0)), (False, (0, 1))])
def test_a_roll_adds_first_or_takes_first(surge, numbers):
    deployment = render(plan=make_plan(replace(MAIA, surge=surge)))[0]
    rolling = deployment["spec"]["strategy"]["rollingUpdate"]
    assert (rolling["maxSurge"], rolling["maxUnavailable"]) == numbers


def test_everything_belongs_to_the_pool():
    for child in render():
        assert child["metadata"]["namespace"] == "default"
        (owner,) = child["metadata"]["ownerReferences"]
        assert owner["uid"] == "pool-uid"
        assert owner["controller"] is True


def test_selectors_find_the_workers_and_nobody_elses():
    deployment, service, budget = render()
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["selector"].items() <= labels.items()
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels["sluice.dev/pool"] == "chat"
    assert labels["sluice.dev/accelerator-class"] == "maia-200"
    assert "sluice.dev/accelerator-class" not in budget["spec"]["selector"]["matchLabels"]


def test_a_pool_without_workers_keeps_no_children():
    assert render(plan=make_plan(MAIA, workers=False)) == ()


def test_a_variant_whose_class_is_gone_stays_as_it_was():
    plan = make_plan(replace(MAIA, frozen=True), make_variant("h100"))
    classes = {"h100": CLASSES["h100"]}
    kinds = [(each["kind"], each["metadata"]["name"]) for each in render(POOL, classes, plan)]
    assert kinds == [
        ("Deployment", "chat-h100"),
        ("Service", "chat-workers"),
        ("PodDisruptionBudget", "chat"),
    ]
    assert set(digest_templates(plan.key, POOL, classes, IMAGE)) == {"h100"}


def test_the_longest_names_fit():
    pool, class_name = "a" * POOL_NAME.longest, "b" * 20
    assert len(deployment_name(pool, class_name)) <= 63
    plan = make_plan(MAIA, key=PoolKey("default", pool))
    assert all(len(child["metadata"]["name"]) <= 63 for child in render(plan=plan))


def test_pods_are_restricted():
    pod = read_pod()
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_a_worker_tolerates_its_class_by_key_and_no_quarantine():
    assert read_pod()["tolerations"] == [{"key": "sluice.dev/maia", "operator": "Exists"}]
    assert read_pod(classes=edit_class("maia-200", taintKey=None))["tolerations"] == []


def test_tolerations_of_a_pool_are_added():
    wanted = {"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}
    pod = read_pod(edit_pool(template={"tolerations": [wanted]}))
    assert pod["tolerations"] == [{"key": "sluice.dev/maia", "operator": "Exists"}, wanted]


def test_a_worker_asks_for_its_devices_as_request_and_limit():
    resources = read_container()["resources"]
    assert resources["requests"]["sluice.dev/maia"] == "1"
    assert resources["limits"] == {"sluice.dev/maia": "1"}
    resources = read_container(edit_pool(devices=2))["resources"]
    assert resources["limits"] == {"sluice.dev/maia": "2"}


def test_resources_of_a_pool_stand_beside_the_devices():
    template = {"resources": {"requests": {"cpu": 2}, "limits": {"memory": "4Gi"}}}
    resources = read_container(edit_pool(template=template))["resources"]
    assert resources == {
        "requests": {"cpu": "2", "sluice.dev/maia": "1"},
        "limits": {"memory": "4Gi", "sluice.dev/maia": "1"},
    }


def test_devices_named_by_hand_do_not_win():
    template = {"resources": {"limits": {"sluice.dev/maia": 9}}}
    assert read_container(edit_pool(template=template))["resources"]["limits"] == {
        "sluice.dev/maia": "1"
    }


def test_a_variable_of_a_pool_replaces_ours_and_no_name_stands_twice():
    env = [{"name": "OPENBLAS_NUM_THREADS", "value": "4"}, {"name": "B", "value": "$(POD_NAME)"}]
    found = read_container(edit_pool(template={"env": env}))["env"]
    names = [variable["name"] for variable in found]
    assert len(names) == len(set(names))
    assert found[-2:] == env
    assert names.index("POD_NAME") < names.index("B")


def test_what_a_worker_is_told_of_itself_cannot_be_overridden():
    told = [each["name"] for each in read_container()["env"] if "valueFrom" in each]
    assert sorted(told) == sorted(RESERVED_ENV)


def test_a_variable_may_come_from_a_secret():
    env = [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]
    assert read_container(edit_pool(template={"env": env}))["env"][-1] == env[0]


def test_image_command_and_pull_secrets_of_a_pool_win():
    template = {"image": "mine:2", "command": ["serve"], "imagePullSecrets": [{"name": "key"}]}
    pool = edit_pool(template=template)
    container = read_container(pool)
    assert (container["image"], container["command"]) == ("mine:2", ["serve"])
    assert read_pod(pool)["imagePullSecrets"] == [{"name": "key"}]


def test_an_emulated_worker_is_told_what_to_pretend():
    arguments = read_arguments()
    assert arguments["--profile"] == "maia-200"
    assert arguments["--nominal"] == "llama-3.3-70b"
    assert arguments["--devices"] == "1"
    assert arguments["--token-scale"] == "96"
    assert (arguments["--startup-seconds"], arguments["--time-compression"]) == ("60", "10")
    assert read_arguments(edit_pool(devices=2))["--devices"] == "2"


def test_pacing_needs_both_the_class_and_the_pool():
    document = POOL.model_dump(mode="json", by_alias=True, exclude_none=True)
    del document["model"]["emulation"]
    for pool, classes in [
        (InferencePoolSpec.model_validate(document), CLASSES),
        (POOL, edit_class("maia-200", emulation=None)),
    ]:
        arguments = read_arguments(pool, classes)
        assert not [name for name in arguments if "emulate" in name or "startup" in name]
        assert arguments["--served-model-name"] == "compact"


@pytest.mark.parametrize(
    ("of_variant", "of_class", "profile", "told"),
    [
        ("fp4", "fp8-block", "maia-200", "fp4"),
        (None, "bfloat16", "maia-200", "bfloat16"),
        (None, None, "maia-200", "fp8-block"),
        (None, None, "maia-100", "mx9"),
        (None, "fp8-row", None, "fp8-row"),
        (None, None, None, None),
    ],
)
def test_a_worker_computes_in_what_its_variant_its_class_or_its_profile_says(
    of_variant, of_class, profile, told
):
    emulation = {"profile": profile} if profile else None
    classes = edit_class("maia-200", numerics=of_class, emulation=emulation)
    pool = edit_pool(numerics=of_variant) if of_variant else POOL
    assert read_arguments(pool, classes).get("--numerics") == told


def test_other_numerics_roll_the_workers_of_their_variant_alone():
    def digest(pool):
        return digest_templates(PoolKey("default", "chat"), pool, CLASSES, IMAGE)

    before, after = digest(POOL), digest(edit_pool(numerics="fp4"))
    assert before["maia-200"] != after["maia-200"]
    assert before["h100"] == after["h100"]
