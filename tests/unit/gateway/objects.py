"""Raw objects as the API server would send them."""

from datetime import UTC, datetime


def pool(
    name="chat",
    *,
    namespace="default",
    model="compact",
    variants=("maia", "gpu"),
    shares=None,
    quarantined=(),
    ramps=None,
    created=1_763_900_000,
    ttft="2s",
    tpot="200ms",
    annotations=None,
):
    raw = {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "InferencePool",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{namespace}-{name}",
            "annotations": dict(annotations or {}),
            "creationTimestamp": datetime.fromtimestamp(created, UTC).isoformat(),
        },
        "spec": {
            "model": {"name": model},
            "slo": {"ttft": ttft, "tpot": tpot, "objective": "99%"},
            "variants": [{"acceleratorClass": variant, "max": 4} for variant in variants],
        },
    }
    if shares is not None:
        raw["status"] = {
            "variants": [
                {
                    "acceleratorClass": variant,
                    "share": share,
                    "quarantined": list(quarantined),
                    **({"ramp": ramps[variant]} if variant in (ramps or {}) else {}),
                }
                for variant, share in shares.items()
            ]
        }
    return raw


def worker(
    name,
    *,
    pool="chat",
    namespace="default",
    variant="maia",
    host="127.0.0.1",
    port=8000,
    ready=True,
    deleting=False,
    uid=None,
    args=(),
):
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": uid or f"uid-{name}",
        "labels": {
            "app.kubernetes.io/name": "sluice-worker",
            "sluice.dev/pool": pool,
            "sluice.dev/accelerator-class": variant,
        },
    }
    if deleting:
        metadata["deletionTimestamp"] = "2025-11-23T18:00:00Z"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "containers": [
                {
                    "name": "worker",
                    "args": list(args),
                    "ports": [{"name": "http", "containerPort": port}],
                },
            ]
        },
        "status": {
            "podIP": host,
            "conditions": [
                {"type": "Ready", "status": "False"},
                {"type": "ContainersReady", "status": "True" if ready else "False"},
            ],
        },
    }
