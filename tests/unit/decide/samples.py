"""What the planner's tests reckon with: two classes, a pool, and histograms."""

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.api.pool import InferencePoolSpec

BOUNDS = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
CAPACITY = {"maia": 1.6, "gpu": 1.0}
"""What a worker really carries (requests/s); the planner reckons with a profile that errs."""
CLASSES = {
    "maia": AcceleratorClassSpec.model_validate(
        {
            "nodeSelector": {"accelerator": "maia"},
            "taintKey": "sluice.dev/maia",
            "resourceName": "sluice.dev/maia",
            "price": {"onDemand": "10"},
            "health": {"returnAfter": "20s"},
            "emulation": {"profile": "maia-200", "startup": "4s"},
        }
    ),
    "gpu": AcceleratorClassSpec.model_validate(
        {
            "nodeSelector": {"accelerator": "gpu"},
            "taintKey": "nvidia.com/gpu",
            "resourceName": "nvidia.com/gpu",
            "price": {"onDemand": "12"},
            "emulation": {"profile": "h100", "startup": "4s"},
        }
    ),
}


def pool_spec(**over):
    """Return a pool on maia (1 to 4) and gpu (0 to 4) with short windows."""
    document = {
        "model": {
            "name": "compact",
            "source": {"path": "/models/compact"},
            "emulation": {"nominal": "llama-3.3-70b", "tokenScale": 96},
        },
        "slo": {"ttft": "2s", "tpot": "200ms"},
        "variants": [
            {"acceleratorClass": "maia", "min": 1, "max": 4},
            {"acceleratorClass": "gpu", "min": 0, "max": 4},
        ],
        "autoscaling": {"stableWindow": "30s"},
        "shift": {"holdDown": "12s", "ramp": {"steps": ["10%", "50%"], "dwell": "6s"}},
    } | over
    return InferencePoolSpec.model_validate(document)


def one_bucket(index, count):
    """Return histogram counts with everything in one bucket."""
    counts = [0] * (len(BOUNDS) + 1)
    counts[index] = count
    return tuple(counts)
