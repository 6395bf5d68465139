"""Structural schemas: pydantic's JSON schema in the dialect that a CRD accepts.

References are inlined, optional fields lose their null (the API server drops nulls), defaults take
their text form, and what structural schemas refuse (titles, property names) is left out.
"""

from typing import Any

from sluice.api.base import ApiModel
from sluice.api.quantities import (
    DURATION,
    PERCENT,
    format_duration,
    format_percent,
)

Schema = dict[str, Any]

_DROPPED = ("title", "propertyNames", "$defs", "discriminator", "const")


def build_schema(model: type[ApiModel]) -> Schema:
    """Return the structural schema of a type."""
    document = model.model_json_schema(by_alias=True, mode="validation")
    return _convert(document, document.get("$defs", {}))


def _convert(node: Schema, definitions: dict[str, Schema]) -> Schema:
    node = _resolve(node, definitions)
    found = {key: value for key, value in node.items() if key not in _DROPPED}
    if "description" in found:
        found["description"] = " ".join(found["description"].split())
    if "properties" in found:
        found["properties"] = {
            name: _convert_property(child, definitions)
            for name, child in found["properties"].items()
        }
        found.pop("additionalProperties", None)
    elif isinstance(found.get("additionalProperties"), dict):
        found["additionalProperties"] = _convert(found["additionalProperties"], definitions)
    elif found.get("type") == "object":
        found.pop("additionalProperties", None)
        found["x-kubernetes-preserve-unknown-fields"] = True
    if "items" in found:
        found["items"] = _convert(found["items"], definitions)
    if found.get("type") == "integer":
        found["format"] = "int64"
    return found


def _convert_property(node: Schema, definitions: dict[str, Schema]) -> Schema:
    converted = _convert(node, definitions)
    default = converted.pop("default", None)
    if default is not None:
        converted["default"] = _format_default(default, converted)
    elif "default" in node:
        pass  # null: to leave it out says something, whatever defaults are inside
    elif converted.get("type") == "object" and _all_defaulted(converted):
        # An object left out gets the defaults inside it, written out: CEL rules are checked against
        # this value as it stands.
        converted["default"] = {
            name: child["default"] for name, child in converted["properties"].items()
        }
    return converted


def _all_defaulted(schema: Schema) -> bool:
    properties = schema.get("properties", {})
    return bool(properties) and all("default" in child for child in properties.values())


def _format_default(default: Any, schema: Schema) -> Any:
    if isinstance(default, list | tuple):
        return [_format_default(each, schema.get("items", {})) for each in default]
    pattern = schema.get("pattern")
    if pattern == PERCENT.pattern and isinstance(default, float):
        return format_percent(default)
    if pattern == DURATION.pattern and isinstance(default, float):
        return format_duration(default)
    return default


def _resolve(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """Inline a reference and take the null out of an optional; the field's own words win."""
    choices = [choice for choice in node.get("anyOf", ()) if choice.get("type") != "null"]
    if len(choices) == 1:
        rest = {key: value for key, value in node.items() if key != "anyOf"}
        return _resolve(choices[0] | rest, definitions)
    reference = node.get("$ref")
    if reference is None:
        return node
    target = definitions[reference.rsplit("/", 1)[-1]]
    return target | {key: value for key, value in node.items() if key != "$ref"}
