"""The pod that proves a quarantined node: its free devices, one container a worker's worth of them.

Bare and bound by affinity: no controller shall make it again, and the scheduler still checks what
is free. It tolerates our quarantine, which nothing else does.
"""

from dataclasses import dataclass
from typing import Any

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.api.pool import InferencePoolSpec
from sluice.model.names import (
    API_VERSION,
    CLASS_KIND,
    LABEL_CLASS,
    LABEL_MANAGED_BY,
    LABEL_NAME,
    MANAGED_BY,
    PROBATION,
    TAINT_QUARANTINE,
    WORKER_PORT,
    probation_name,
    slot_name,
)
from sluice.model.plan import StartProbation
from sluice.render.worker import Manifest, render_template

GRACE_SECONDS = 5
"""It has no streams to finish."""


@dataclass(frozen=True, slots=True)
class Proving:
    """What a probation pod is made of besides the plan's action.

    Attributes:
        class_uid: uid of the AcceleratorClass, which owns the pod.
        namespace: Sluice's own.
    """

    spec: InferencePoolSpec
    accelerator: AcceleratorClassSpec
    class_uid: str
    namespace: str
    image: str


_FOREIGN = frozenset({"secretKeyRef", "configMapKeyRef"})


def slot_port(number: int) -> int:
    """Return the port of a slot: the containers of a pod share its address."""
    return WORKER_PORT + number


def render_probation(action: StartProbation, proving: Proving) -> Manifest:
    """Return the pod that proves a node."""
    variant = next(
        each for each in proving.spec.variants if each.accelerator_class == action.accelerator_class
    )
    template = render_template(
        action.pool, proving.spec, variant, proving.accelerator, proving.image
    )
    pod: Manifest = template["spec"]
    worker = pod["containers"][0]
    del pod["topologySpreadConstraints"]
    pod["containers"] = [_render_slot(worker, number) for number in range(action.slots)]
    pod["restartPolicy"] = "Always"
    pod["terminationGracePeriodSeconds"] = GRACE_SECONDS
    pod["tolerations"] = [
        *pod["tolerations"],
        {"key": TAINT_QUARANTINE, "operator": "Exists", "effect": "NoSchedule"},
    ]
    pod["affinity"] = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {
                        "matchFields": [
                            {"key": "metadata.name", "operator": "In", "values": [action.node]}
                        ]
                    }
                ]
            }
        }
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": probation_name(action.node),
            "namespace": proving.namespace,
            "labels": {
                LABEL_NAME: PROBATION,
                LABEL_MANAGED_BY: MANAGED_BY,
                LABEL_CLASS: action.accelerator_class,
            },
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": CLASS_KIND,
                    "name": action.accelerator_class,
                    "uid": proving.class_uid,
                    "controller": True,
                }
            ],
        },
        "spec": pod,
    }


def _render_slot(worker: Manifest, number: int) -> Manifest:
    """Return a container that serves as the worker does, on a port of its own.

    Without the variables that a pool takes from Secrets and ConfigMaps: in Sluice's namespace the
    same names are those of others.
    """
    port = slot_port(number)
    arguments = [
        f"--port={port}" if argument.startswith("--port=") else argument
        for argument in worker["args"]
    ]
    ports: list[dict[str, Any]] = [
        {"name": slot_name(number), "containerPort": port, "protocol": "TCP"}
    ]
    probes = {
        name: worker[name] | {"httpGet": worker[name]["httpGet"] | {"port": slot_name(number)}}
        for name in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    own = {
        "name": slot_name(number),
        "args": arguments,
        "ports": ports,
        "env": [each for each in worker["env"] if not _FOREIGN & each.get("valueFrom", {}).keys()],
    }
    return worker | probes | own
