"""All children of a pool: a Deployment per variant, a headless Service, a PodDisruptionBudget."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.api.pool import InferencePoolSpec, VariantSpec
from sluice.model.keys import PoolKey
from sluice.model.names import (
    ANNOTATION_TEMPLATE,
    API_VERSION,
    LABEL_MANAGED_BY,
    LABEL_NAME,
    LABEL_POOL,
    MANAGED_BY,
    POOL_KIND,
    WORKER,
    WORKER_PORT,
    deployment_name,
    pdb_name,
    service_name,
)
from sluice.model.plan import PoolPlan, VariantPlan
from sluice.render.worker import Manifest, label_workers, render_template


def digest_template(template: Manifest) -> str:
    """Return a short digest that is equal for equal templates."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_templates(
    key: PoolKey,
    spec: InferencePoolSpec,
    classes: Mapping[str, AcceleratorClassSpec],
    image: str,
) -> dict[str, str]:
    """Return the digest of each variant's template, by class; classes that are gone have none."""
    return {
        variant.accelerator_class: digest_template(
            render_template(key, spec, variant, classes[variant.accelerator_class], image)
        )
        for variant in spec.variants
        if variant.accelerator_class in classes
    }


def render_pool(
    plan: PoolPlan,
    spec: InferencePoolSpec,
    classes: Mapping[str, AcceleratorClassSpec],
    image: str,
) -> tuple[Manifest, ...]:
    """Return the children that a pool should have.

    A frozen variant (its class is gone) is left out: it stays as it was last rendered. A pool that
    gets no workers keeps no children.
    """
    if not plan.workers:
        return ()
    variants = {variant.accelerator_class: variant for variant in spec.variants}
    deployments = tuple(
        render_deployment(plan, planned, spec, variants[planned.accelerator_class], classes, image)
        for planned in plan.variants
        if not planned.frozen
    )
    return (*deployments, render_service(plan), render_budget(plan))


def render_deployment(
    plan: PoolPlan,
    planned: VariantPlan,
    spec: InferencePoolSpec,
    variant: VariantSpec,
    classes: Mapping[str, AcceleratorClassSpec],
    image: str,
) -> Manifest:
    """Return a variant's Deployment; its replicas always stand in it, for we own them."""
    name = planned.accelerator_class
    template = render_template(plan.key, spec, variant, classes[name], image)
    surge, unavailable = (1, 0) if planned.surge else (0, 1)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(plan, deployment_name(plan.key.name, name))
        | {
            "labels": label_workers(plan.key, name),
            "annotations": {ANNOTATION_TEMPLATE: digest_template(template)},
        },
        "spec": {
            "replicas": planned.wanted,
            "paused": planned.paused,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": label_workers(plan.key, name)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
            },
            "template": template,
        },
    }


def render_service(plan: PoolPlan) -> Manifest:
    """Return the headless Service: names for the workers, no address that would bypass shares.

    It names ready workers only, for people and monitoring; the gateway watches the pods.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(plan, service_name(plan.key.name)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": False,
            "selector": _select(plan.key),
            "ports": [
                {"name": "http", "port": WORKER_PORT, "targetPort": "http", "protocol": "TCP"}
            ],
        },
    }


def render_budget(plan: PoolPlan) -> Manifest:
    """Return the PodDisruptionBudget: drains take one worker at a time, sick ones at once."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(plan, pdb_name(plan.key.name)),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": _select(plan.key)},
        },
    }


def _select(key: PoolKey) -> dict[str, str]:
    return {LABEL_NAME: WORKER, LABEL_POOL: key.name}


def _metadata(plan: PoolPlan, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": plan.key.namespace,
        "labels": {LABEL_MANAGED_BY: MANAGED_BY, LABEL_POOL: plan.key.name},
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": POOL_KIND,
                "name": plan.key.name,
                "uid": plan.uid,
                "controller": True,
            }
        ],
    }
