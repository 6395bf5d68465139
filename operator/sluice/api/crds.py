"""The two CustomResourceDefinitions: schemas of the types, CEL rules, printer columns."""

from typing import Any

from sluice.api.accelerator import AcceleratorClass
from sluice.api.base import GROUP, ApiModel
from sluice.api.pool import InferencePool
from sluice.api.schema import Schema, build_schema


def build_crds() -> dict[str, dict[str, Any]]:
    """Return both definitions by file name."""
    return {
        "inferencepools.yaml": _define(
            model=InferencePool,
            plural="inferencepools",
            short="ipool",
            scope="Namespaced",
            columns=_POOL_COLUMNS,
        ),
        "acceleratorclasses.yaml": _define(
            model=AcceleratorClass,
            plural="acceleratorclasses",
            short="accel",
            scope="Cluster",
            columns=_CLASS_COLUMNS,
        ),
    }


def _build_root(model: type[ApiModel]) -> Schema:
    """Return the schema of a whole object.

    The API server knows the standard fields itself and refuses rules about them.
    """
    schema = build_schema(model)
    schema["properties"] |= {
        "apiVersion": {
            "type": "string",
            "description": "Group and version of this kind: sluice.dev/v1alpha1.",
        },
        "kind": {"type": "string", "description": f"The kind of this object: {model.__name__}."},
        "metadata": {"type": "object"},
    }
    schema["required"] = ["spec"]
    return schema


def _column(
    name: str, path: str, kind: str = "string", *, wide: bool = False, about: str = ""
) -> dict[str, Any]:
    return {
        "name": name,
        "type": kind,
        "jsonPath": path,
        "priority": int(wide),
        "description": about or name,
    }


def _condition(kind: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].status'


_POOL_COLUMNS = [
    _column("Ready", _condition("Ready"), about="A worker serves."),
    _column("SLO", _condition("SLOMet"), about="The objective holds over the window."),
    _column("Attainment", ".status.attainment", about="Share of requests inside the SLO."),
    _column("Placement", ".status.placement", about="Serving/wanted workers and share by class."),
    _column("$/h", ".status.costPerHour", about="Dollars an hour for the devices held now."),
    _column("Fallback", _condition("FallbackActive"), about="Capacity was lost to health."),
    _column("Why", ".status.reason", about="The last decision, or what is in the way."),
    _column("Age", ".metadata.creationTimestamp", "date"),
    _column("Message", ".status.message", wide=True, about="The sentence behind Why."),
]

_CLASS_COLUMNS = [
    _column("Resource", ".spec.resourceName", about="Extended resource of the device."),
    _column("Devices", ".spec.devicesPerWorker", "integer", about="Devices per worker."),
    _column("$/device-h", ".spec.price.onDemand", about="Dollars per device-hour."),
    _column("Profile", ".spec.emulation.profile", about="Timing profile; empty if not emulated."),
    _column("Age", ".metadata.creationTimestamp", "date"),
]


def _define(
    *,
    model: type[ApiModel],
    plural: str,
    short: str,
    scope: str,
    columns: list[dict[str, Any]],
) -> dict[str, Any]:
    kind, schema = model.__name__, _build_root(model)
    version: dict[str, Any] = {
        "name": "v1alpha1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "additionalPrinterColumns": columns,
    }
    if "status" in schema["properties"]:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{GROUP}",
            "labels": {"app.kubernetes.io/part-of": "sluice"},
        },
        "spec": {
            "group": GROUP,
            "scope": scope,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["all", "sluice"] if scope == "Namespaced" else ["sluice"],
            },
            "versions": [version],
        },
    }
