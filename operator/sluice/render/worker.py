"""The pod template of a variant's workers."""

from typing import Any

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.api.base import ApiModel
from sluice.api.numerics import choose_numerics
from sluice.api.pool import InferencePoolSpec, VariantSpec
from sluice.api.template import Resources, WorkerTemplate
from sluice.model.keys import PoolKey
from sluice.model.names import (
    LABEL_CLASS,
    LABEL_MANAGED_BY,
    LABEL_NAME,
    LABEL_POOL,
    MANAGED_BY,
    PRIORITY_CLASS,
    WORKER,
    WORKER_CONTAINER,
    WORKER_PORT,
)
from sluice.model.serving import MAX_BATCHED_TOKENS, MAX_NUM_SEQS

Manifest = dict[str, Any]

DEFAULT_RESOURCES = Resources(requests={"cpu": "250m", "memory": "256Mi"})
"""What a worker asks for besides its devices; modest, since the device does the computing."""

START_SECONDS = 3600
"""Longest start: weights of hundreds of gigabytes from a slow store."""

GRACE_SECONDS = 60
"""Time a worker has to finish its streams: 64 tokens at 200 ms, queued four deep."""


def label_workers(key: PoolKey, accelerator_class: str) -> dict[str, str]:
    """Return the labels of a variant's workers."""
    return {
        LABEL_NAME: WORKER,
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_POOL: key.name,
        LABEL_CLASS: accelerator_class,
    }


def render_template(
    key: PoolKey,
    spec: InferencePoolSpec,
    variant: VariantSpec,
    accelerator: AcceleratorClassSpec,
    image: str,
) -> Manifest:
    """Return the pod template of a variant.

    Nothing in it depends on the pool's generation or on the plan: an edit that changes no worker
    must roll none.
    """
    override = variant.template or WorkerTemplate()
    labels = label_workers(key, variant.accelerator_class)
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "containers": [_render_container(spec, variant, accelerator, override, image)],
        "nodeSelector": dict(sorted(accelerator.node_selector.items())),
        "priorityClassName": PRIORITY_CLASS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "tolerations": _list_tolerations(accelerator, override),
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                # Nodes in quarantine are no place to spread to.
                "nodeTaintsPolicy": "Honor",
                "labelSelector": {"matchLabels": labels},
            }
        ],
    }
    if override.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": item.name} for item in override.image_pull_secrets]
    return {"metadata": {"labels": labels}, "spec": pod}


def _render_container(
    spec: InferencePoolSpec,
    variant: VariantSpec,
    accelerator: AcceleratorClassSpec,
    override: WorkerTemplate,
    image: str,
) -> Manifest:
    return {
        "name": WORKER_CONTAINER,
        "image": override.image or image,
        "command": override.command or [WORKER],
        "args": _list_arguments(spec, variant, accelerator),
        "env": _list_environment(override),
        "ports": [{"name": "http", "containerPort": WORKER_PORT, "protocol": "TCP"}],
        "resources": _render_resources(variant, accelerator, override),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        # The planner judges a start overdue and acts on it; the kubelet only ends what hangs.
        "startupProbe": _probe("/readyz", period=1, failures=START_SECONDS),
        "readinessProbe": _probe("/readyz", period=2, failures=2),
        "livenessProbe": _probe("/healthz", period=5, failures=6),
    }


def _list_arguments(
    spec: InferencePoolSpec, variant: VariantSpec, accelerator: AcceleratorClassSpec
) -> list[str]:
    arguments = {
        "--model-path": spec.model.source.path,
        "--served-model-name": spec.model.name,
        "--host": "$(POD_IP)",
        "--port": str(WORKER_PORT),
        "--max-num-seqs": str(MAX_NUM_SEQS),
        "--max-num-batched-tokens": str(MAX_BATCHED_TOKENS),
    }
    numerics = choose_numerics(variant, accelerator)
    if numerics is not None:
        arguments["--numerics"] = numerics
    device, nominal = accelerator.emulation, spec.model.emulation
    if device is not None and nominal is not None:
        devices = variant.devices or accelerator.devices_per_worker
        arguments |= {
            "--profile": str(device.profile),
            "--nominal": str(nominal.nominal),
            "--devices": str(devices),
            "--token-scale": str(nominal.token_scale),
            # Both, so that the worker's log says what was compressed.
            "--startup-seconds": f"{device.startup:g}",
            "--time-compression": str(device.time_compression),
        }
    return [f"{flag}={value}" for flag, value in arguments.items()]


def _list_environment(override: WorkerTemplate) -> list[Manifest]:
    """Return the variables: Sluice's own first, so that a pool's may refer to them.

    A pool's variable replaces Sluice's of the same name: twice in a list, the API server refuses
    it.
    """
    own = [
        _field("POD_UID", "metadata.uid"),
        _field("POD_NAME", "metadata.name"),
        _field("POD_IP", "status.podIP"),
        _field("NODE_NAME", "spec.nodeName"),
        # One thread a worker: the emulated devices of a node share its processors.
        {"name": "OMP_NUM_THREADS", "value": "1"},
        {"name": "OPENBLAS_NUM_THREADS", "value": "1"},
    ]
    theirs = [_dump(variable) for variable in override.env or ()]
    replaced = {variable["name"] for variable in theirs}
    return [variable for variable in own if variable["name"] not in replaced] + theirs


def _dump(part: ApiModel) -> Manifest:
    return part.model_dump(mode="json", by_alias=True, exclude_none=True)


def _field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _probe(path: str, *, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "http", "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    }


def _render_resources(
    variant: VariantSpec, accelerator: AcceleratorClassSpec, override: WorkerTemplate
) -> Manifest:
    devices = {accelerator.resource_name: str(variant.devices or accelerator.devices_per_worker)}
    asked = override.resources or DEFAULT_RESOURCES
    # Devices as limit and request, equal: Kubernetes knows no other way for extended resources.
    return {
        "requests": (asked.requests or {}) | devices,
        "limits": (asked.limits or {}) | devices,
    }


def _list_tolerations(
    accelerator: AcceleratorClassSpec, override: WorkerTemplate
) -> list[Manifest]:
    tolerations: list[Manifest] = []
    if accelerator.taint_key is not None:
        # Every value and effect of this key, and no other: a toleration without a key would let
        # workers back onto nodes in quarantine.
        tolerations.append({"key": accelerator.taint_key, "operator": "Exists"})
    return [*tolerations, *(_dump(each) for each in override.tolerations or ())]
