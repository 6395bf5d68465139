"""The two CustomResourceDefinitions: schemas of the types, CEL rules, printer columns."""

from typing import Any

from sluice.api.accelerator import MAX_CLASS_NAME, AcceleratorClassSpec
from sluice.api.pool import MAX_POOL_NAME, InferencePoolSpec
from sluice.api.schema import Schema, build_schema
from sluice.api.status import InferencePoolStatus

GROUP = "sluice.dev"


def rule(expression: str, message: str, field: str | None = None) -> dict[str, str]:
    """Return one CEL rule; a static message, since a computed one exceeds the cost budget."""
    found = {"rule": expression, "message": message}
    if field is not None:
        found["fieldPath"] = field
    return found


def build_crds() -> dict[str, dict[str, Any]]:
    """Return both definitions by file name."""
    return {
        "inferencepools.yaml": _define(
            kind="InferencePool",
            plural="inferencepools",
            short="ipool",
            scope="Namespaced",
            schema=_pool_schema(),
            columns=_POOL_COLUMNS,
        ),
        "acceleratorclasses.yaml": _define(
            kind="AcceleratorClass",
            plural="acceleratorclasses",
            short="accel",
            scope="Cluster",
            schema=_class_schema(),
            columns=_CLASS_COLUMNS,
        ),
    }


def _pool_schema() -> Schema:
    spec, status = build_schema(InferencePoolSpec), build_schema(InferencePoolStatus)
    properties = spec["properties"]
    properties["slo"]["x-kubernetes-validations"] = [
        rule("duration(self.ttft) > duration('0s')", "must be longer than 0s", ".ttft"),
        rule("duration(self.tpot) > duration('0s')", "must be longer than 0s", ".tpot"),
        rule(
            "!self.objective.matches('^(0+([.]0+)?|100([.]0+)?)%$')",
            "must lie between 0% and 100%, both excluded",
            ".objective",
        ),
    ]
    variants = properties["variants"]
    variants["x-kubernetes-list-type"] = "atomic"
    variants["x-kubernetes-validations"] = [
        rule(
            "self.all(x, self.exists_one(y, y.acceleratorClass == x.acceleratorClass))",
            "no acceleratorClass may stand twice: merge the two variants",
        ),
        rule("self.exists(v, v.max > 0)", "at least one variant must have a max above 0"),
    ]
    variants["items"]["x-kubernetes-validations"] = [
        rule("self.min <= self.max", "must not be larger than max", ".min")
    ]
    conditions = status["properties"]["conditions"]
    conditions["x-kubernetes-list-type"] = "map"
    conditions["x-kubernetes-list-map-keys"] = ["type"]
    return _root(
        spec,
        status,
        "An InferencePool says which model to serve, within which SLO, and on which accelerator"
        " classes. Sluice runs, scales and heals its workers.",
        rule(
            f"self.metadata.name.size() <= {MAX_POOL_NAME}",
            f"metadata.name: a pool's name may have {MAX_POOL_NAME} characters at the most, since"
            " its workers carry <pool>-<class> as a label",
        ),
    )


def _class_schema() -> Schema:
    spec = build_schema(AcceleratorClassSpec)
    liveness = spec["properties"]["health"]["properties"]["liveness"]
    liveness["x-kubernetes-validations"] = [
        rule("duration(self.period) > duration('0s')", "must be longer than 0s", ".period"),
        rule("duration(self.timeout) > duration('0s')", "must be longer than 0s", ".timeout"),
        rule(
            "duration(self.timeout) <= duration(self.period)",
            "must not be longer than period",
            ".timeout",
        ),
    ]
    return _root(
        spec,
        None,
        "An AcceleratorClass says how a kind of device is found in the cluster, what it costs, how"
        " it is checked and, where it is emulated, how long its steps take.",
        rule(
            f"self.metadata.name.size() <= {MAX_CLASS_NAME}",
            f"metadata.name: a class's name may have {MAX_CLASS_NAME} characters at the most, since"
            " workers carry <pool>-<class> as a label",
        ),
    )


def _root(
    spec: Schema, status: Schema | None, description: str, name_rule: dict[str, str]
) -> Schema:
    properties: Schema = {
        "apiVersion": {"type": "string", "description": f"{GROUP}/v1alpha1"},
        "kind": {"type": "string", "description": "The kind of this object."},
        "metadata": {"type": "object"},
        "spec": spec,
    }
    if status is not None:
        properties["status"] = status
    return {
        "type": "object",
        "description": description,
        "required": ["spec"],
        "properties": properties,
        "x-kubernetes-validations": [name_rule],
    }


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
    kind: str,
    plural: str,
    short: str,
    scope: str,
    schema: Schema,
    columns: list[dict[str, Any]],
) -> dict[str, Any]:
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
