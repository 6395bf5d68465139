"""Documents that repeat the code say what the code says."""

from pathlib import Path

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from sluice.api.quantities import format_duration
from sluice.control.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def list_settings(model, prefix=""):
    """Yield (key, default, meaning) of every setting."""
    for name, field in model.model_fields.items():
        key = prefix + to_camel(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from list_settings(field.annotation, f"{key}.")
            continue
        value = field.default
        shown = format_duration(value) if isinstance(value, float) else value
        yield key, "" if shown is None else f"`{shown}`", field.description


def test_every_setting_is_documented_with_its_default():
    text = (ROOT / "docs/settings.md").read_text()
    for key, default, meaning in list_settings(Settings):
        cells = f"| `{key}` | {default} | {meaning} |".replace("|  |", "| |")
        assert cells in text
