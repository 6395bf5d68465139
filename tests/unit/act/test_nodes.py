"""Our marks on a node, and nobody else's."""

import json

from sluice.act.nodes import plan_patch
from sluice.model.plan import QuarantineNode, ReleaseNode

OTHER = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
OURS = {"key": "sluice.dev/quarantine", "value": "failed", "effect": "NoSchedule"}


def node(taints=(), annotations=None):
    meta = {"name": "gpu-0", "resourceVersion": "7"}
    if annotations is not None:
        meta["annotations"] = annotations
    return {"metadata": meta, "spec": {"taints": list(taints)}}


def apply(live, operations):
    """Apply the few JSON patch operations that we make."""
    for operation in operations:
        if operation["path"] == "/spec/taints":
            live["spec"]["taints"] = operation["value"]
        elif operation["path"] == "/metadata/annotations":
            live["metadata"]["annotations"] = {}
        elif operation["path"].startswith("/metadata/annotations/"):
            key = operation["path"].rsplit("/", 1)[1].replace("~1", "/")
            if operation["op"] == "remove":
                del live["metadata"]["annotations"][key]
            else:
                live["metadata"]["annotations"][key] = operation["value"]
    return live


def test_quarantine_adds_to_the_taints_of_others():
    live = node([OTHER])
    operations = plan_patch(live, QuarantineNode("gpu-0", 12.5, "three misses"))
    assert operations[0] == {"op": "test", "path": "/metadata/resourceVersion", "value": "7"}
    after = apply(live, operations)
    assert after["spec"]["taints"] == [OTHER, OURS]
    mark = json.loads(after["metadata"]["annotations"]["sluice.dev/health"])
    assert mark == {"state": "Failed", "since": 12.5, "reason": "three misses"}


def test_doing_it_twice_changes_nothing():
    action = QuarantineNode("gpu-0", 12.5, "three misses")
    live = apply(node([OTHER]), plan_patch(node([OTHER]), action))
    assert plan_patch(live, action) == []


def test_release_leaves_the_taints_of_others():
    action = QuarantineNode("gpu-0", 12.5, "three misses")
    live = apply(node([OTHER], {"team": "ml"}), plan_patch(node([OTHER], {"team": "ml"}), action))
    after = apply(live, plan_patch(live, ReleaseNode("gpu-0", "good again")))
    assert after["spec"]["taints"] == [OTHER]
    assert after["metadata"]["annotations"] == {"team": "ml"}


def test_a_clean_node_needs_no_release():
    assert plan_patch(node([OTHER]), ReleaseNode("gpu-0", "good")) == []


def test_a_node_that_returns_keeps_the_memory_of_its_flaps():
    out = QuarantineNode("gpu-0", 12.5, "three misses", "Failed", (3.0, 12.5))
    live = apply(node([OTHER]), plan_patch(node([OTHER]), out))
    back = ReleaseNode("gpu-0", "good again", 60.0, (3.0, 12.5))
    live = apply(live, plan_patch(live, back))
    assert live["spec"]["taints"] == [OTHER]
    mark = json.loads(live["metadata"]["annotations"]["sluice.dev/health"])
    assert mark["state"] == "Healthy"
    assert mark["outs"] == [3.0, 12.5]
    assert plan_patch(live, ReleaseNode("gpu-0", "good again", 62.0, (3.0, 12.5))) == []


def test_a_release_by_hand_uses_up_its_annotation():
    live = apply(node(), plan_patch(node(), QuarantineNode("gpu-0", 12.5, "three misses")))
    live["metadata"]["annotations"]["sluice.dev/release"] = "yes"
    after = apply(live, plan_patch(live, ReleaseNode("gpu-0", "by hand", released=True)))
    assert after["metadata"]["annotations"] == {}
    assert after["spec"]["taints"] == []


def read_mark(live):
    return json.loads(live["metadata"]["annotations"]["sluice.dev/health"])


def test_a_node_goes_through_its_marks_and_none_is_left():
    live = apply(node(), plan_patch(node(), QuarantineNode("gpu-0", 1.0, "dead", "Failed", (1.0,))))
    live = apply(
        live, plan_patch(live, QuarantineNode("gpu-0", 1.0, "looked good", "Probation", (1.0,)))
    )
    assert read_mark(live)["state"] == "Probation"
    assert live["spec"]["taints"] == [OURS]
    live = apply(live, plan_patch(live, ReleaseNode("gpu-0", "proven", 9.0, (1.0,), "Ramp")))
    assert read_mark(live) == {"state": "Ramp", "since": 9.0, "reason": "proven", "outs": [1.0]}
    assert live["spec"]["taints"] == []
    live = apply(live, plan_patch(live, ReleaseNode("gpu-0", "climbed", 20.0, (1.0,))))
    assert read_mark(live)["state"] == "Healthy"
    live = apply(live, plan_patch(live, ReleaseNode("gpu-0", "forgotten", 4000.0)))
    assert live["metadata"]["annotations"] == {}


def test_a_ramp_is_marked_also_where_no_flap_is_remembered():
    live = apply(node([OURS]), plan_patch(node([OURS]), ReleaseNode("gpu-0", "r", 9.0, (), "Ramp")))
    assert read_mark(live) == {"state": "Ramp", "since": 9.0, "reason": "r"}


def test_a_release_by_hand_is_used_up_by_the_mark_it_leads_to():
    live = node([OURS], {"sluice.dev/release": "yes"})
    action = QuarantineNode("gpu-0", 1.0, "released", "Probation", released=True)
    live = apply(live, plan_patch(live, action))
    assert set(live["metadata"]["annotations"]) == {"sluice.dev/health"}


def test_a_release_that_was_not_seen_yet_is_left_to_be_seen():
    live = node([OURS], {"sluice.dev/release": "yes"})
    live = apply(live, plan_patch(live, QuarantineNode("gpu-0", 1.0, "three misses")))
    live = apply(live, plan_patch(live, ReleaseNode("gpu-0", "nothing speaks against it")))
    assert live["metadata"]["annotations"] == {"sluice.dev/release": "yes"}
