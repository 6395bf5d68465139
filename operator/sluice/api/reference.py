"""The API reference in Markdown, from the same schemas as the CRDs."""

from typing import Any

from sluice.api.rules import RULES
from sluice.api.schema import Schema

_HEAD = """# API reference

`sluice.dev/v1alpha1`. Generated from the types by `make generate`; do not edit.

Durations are Go-style strings (`2s`, `200ms`, `1m30s`), percentages strings with %, money and \
rates decimal strings. `kubectl explain ipool.spec` shows the same words. What a field may be \
stands under it; the API server refuses the rest when it is applied.
"""


def write_reference(crds: dict[str, dict[str, Any]]) -> str:
    """Return the whole page."""
    parts = [_HEAD]
    for crd in crds.values():
        version, names = crd["spec"]["versions"][0], crd["spec"]["names"]
        schema = version["schema"]["openAPIV3Schema"]
        scope = "namespaced" if crd["spec"]["scope"] == "Namespaced" else "cluster-scoped"
        parts.append(f"\n## {names['kind']}\n\n{schema['description']}\n")
        parts.append(f"\nShort name `{names['shortNames'][0]}`, {scope}.\n")
        parts += [f"\n{_escape(found['message'])}.\n" for found in schema.get(RULES, ())]
        for part in ("spec", "status"):
            if part in schema["properties"]:
                parts.append(f"\n### {names['kind']} {part}\n\n")
                parts.append("| field | type | default | meaning |\n|---|---|---|---|\n")
                parts += _list_fields(schema["properties"][part], part)
        parts.append(f"\n### `kubectl get {names['shortNames'][0]}`\n\n")
        parts.append("| column | meaning |\n|---|---|\n")
        parts += [_describe_column(column) for column in version["additionalPrinterColumns"]]
    return "".join(parts)


def _describe_column(column: dict[str, Any]) -> str:
    wide = " (with `-o wide`)" if column["priority"] else ""
    return f"| {column['name']} | {column['description']}{wide} |\n"


def _list_fields(schema: Schema, path: str) -> list[str]:
    rows = []
    required = set(schema.get("required", ()))
    for name, child in schema.get("properties", {}).items():
        default = child.get("default", "required" if name in required else "")
        shown = default if default in ("", "required") else f"`{default}`"
        if isinstance(default, dict):
            shown = "see below"
        about = " ".join([child.get("description", ""), *_list_limits(child)])
        rows.append(f"| `{path}.{name}` | {_name_type(child)} | {shown} | {_escape(about)} |\n")
        rows += _list_fields(child, f"{path}.{name}")
        if "items" in child:
            rows += _list_fields(child["items"], f"{path}.{name}[]")
    return rows


def _list_limits(schema: Schema) -> list[str]:
    """Return what the field and, for a list, its items may be, each as a sentence."""
    limits = []
    if "minimum" in schema or "maximum" in schema:
        limits.append(f"From {schema.get('minimum', '…')} to {schema.get('maximum', '…')}.")
    if "maxItems" in schema and schema.get("minItems"):
        limits.append(f"{schema['minItems']} to {schema['maxItems']} items.")
    elif "maxItems" in schema:
        limits.append(f"At most {schema['maxItems']} items.")
    once = [f"Each `{key}` once." for key in schema.get("x-kubernetes-list-map-keys", ())]
    rules = [*schema.get(RULES, ()), *schema.get("items", {}).get(RULES, ())]
    return limits + once + [_word_rule(found) for found in rules]


def _word_rule(found: dict[str, str]) -> str:
    """Return a rule's message as a sentence that says what it is about."""
    message, field = found["message"], found.get("fieldPath", "").removeprefix(".")
    if field:
        return f"`{field}` {message}."
    if message.startswith("must "):
        return f"It {message}."
    return f"{message[0].upper()}{message[1:]}."


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _name_type(schema: Schema) -> str:
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_name_type(schema['items'])}"
    if "additionalProperties" in schema:
        return f"map to {_name_type(schema['additionalProperties'])}"
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    return str(schema.get("type", "any"))
