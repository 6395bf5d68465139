"""The API reference in Markdown, from the same schemas as the CRDs."""

from typing import Any

from sluice.api.schema import Schema

_HEAD = """# API reference

`sluice.dev/v1alpha1`. Generated from the types by `make generate`; do not edit.

Durations are Go-style strings (`2s`, `200ms`, `1m30s`), percentages strings with %, money and \
rates decimal strings. `kubectl explain ipool.spec` shows the same words.
"""


def write_reference(crds: dict[str, dict[str, Any]]) -> str:
    """Return the whole page."""
    parts = [_HEAD]
    for crd in crds.values():
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        names = crd["spec"]["names"]
        scope = "namespaced" if crd["spec"]["scope"] == "Namespaced" else "cluster-scoped"
        parts.append(f"\n## {names['kind']}\n\n{schema['description']}\n")
        parts.append(f"\nShort name `{names['shortNames'][0]}`, {scope}.\n")
        rules = [rule["message"] for rule in schema.get("x-kubernetes-validations", ())]
        if rules:
            parts.append("\n" + "".join(f"- {message}\n" for message in rules))
        for part in ("spec", "status"):
            if part in schema["properties"]:
                parts.append(f"\n### {names['kind']} {part}\n\n")
                parts.append("| field | type | default | meaning |\n|---|---|---|---|\n")
                parts += _list_fields(schema["properties"][part], part)
    return "".join(parts)


def _list_fields(schema: Schema, path: str) -> list[str]:
    rows = []
    required = set(schema.get("required", ()))
    for name, child in schema.get("properties", {}).items():
        default = child.get("default", "required" if name in required else "")
        shown = default if default in ("", "required") else f"`{default}`"
        if isinstance(default, dict):
            shown = "see below"
        rules = [f" ({r['message']})" for r in child.get("x-kubernetes-validations", ())]
        about = child.get("description", "") + "".join(rules)
        about = about.replace("|", "\\|")
        rows.append(f"| `{path}.{name}` | {_name_type(child)} | {shown} | {about} |\n")
        rows += _list_fields(child, f"{path}.{name}")
        if "items" in child:
            rows += _list_fields(child["items"], f"{path}.{name}[]")
    return rows


def _name_type(schema: Schema) -> str:
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_name_type(schema['items'])}"
    return str(schema.get("type", "any"))
