"""What the samples render to, kept as a file: `python tests/unit/render/golden.py` writes it.

A difference in review shows what a change does to every pod; if the pod template differs, the
change rolls all workers when Sluice is upgraded.
"""

import json
from pathlib import Path

import yaml

from sluice.api.accelerator import AcceleratorClass
from sluice.api.pool import InferencePool
from sluice.model.keys import PoolKey
from sluice.model.plan import PoolPlan, VariantPlan
from sluice.render.pool import render_pool

SAMPLES = Path(__file__).resolve().parents[3] / "manifests" / "samples"
GOLDEN = Path(__file__).with_name("golden.yaml")
IMAGE = "sluice-worker:0.1.0"


def read_classes():
    """Return the spec of every sample class by name."""
    documents = yaml.safe_load_all((SAMPLES / "classes.yaml").read_text())
    classes = [AcceleratorClass.model_validate(document) for document in documents]
    return {each.metadata.name: each.spec for each in classes}


def read_pool():
    """Return the spec of the sample pool."""
    document = yaml.safe_load((SAMPLES / "pool.yaml").read_text())
    return InferencePool.model_validate(document).spec


def make_variant(name, **over):
    """Return a plan for a variant that runs two workers."""
    said = {"wanted": 2, "share": 50, "serving": 2, "ready": 2, "capacity": 1.0} | over
    return VariantPlan(accelerator_class=name, **said)


def make_plan(*variants, **over):
    """Return a plan for the sample pool."""
    said = {"key": PoolKey("default", "chat"), "uid": "pool-uid", "generation": 1} | over
    return PoolPlan(variants=variants, **said)


def render_sample():
    """Return the children of the sample pool: Maia rolls without a surge, GPU has no worker."""
    plan = make_plan(make_variant("maia-200", surge=False), make_variant("h100", wanted=0))
    return render_pool(plan, read_pool(), read_classes(), IMAGE)


def write_text():
    """Return the golden file's text."""
    # Through JSON: what is shared in memory would be written as YAML anchors.
    documents = json.loads(json.dumps(render_sample()))
    return yaml.safe_dump_all(documents, sort_keys=False, width=100)


if __name__ == "__main__":
    GOLDEN.write_text(write_text())
