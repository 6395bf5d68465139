"""The images that emulated nodes know, and where their programs lie on this machine.

Goes into every agent's configuration. There is no container runtime: an image is a search path for
its commands, and directories that stand in for those the real image brings along.
"""

import sys
from pathlib import Path
from typing import Any

import sluice_accel

VERSION = "0.1.0"
OPERATOR_IMAGE = f"sluice-operator:{VERSION}"
GATEWAY_IMAGE = f"sluice-gateway:{VERSION}"
WORKER_IMAGE = f"sluice-worker:{VERSION}"


def find_models() -> Path | None:
    """Return the models directory of the source tree, or None where there is no source tree."""
    models = Path(sluice_accel.__file__).resolve().parent.parent / "models"
    return models if models.is_dir() else None


def render_images(models: Path | None) -> dict[str, dict[str, Any]]:
    """Return the table: image name → {path, rootfs}.

    Commands come from the environment this interpreter runs in; `models` is what workers see as
    /models.
    """
    path = [str(Path(sys.executable).parent)]
    worker_root = {"/models": str(models)} if models is not None else {}
    return {
        OPERATOR_IMAGE: {"path": path, "rootfs": {}},
        GATEWAY_IMAGE: {"path": path, "rootfs": {}},
        WORKER_IMAGE: {"path": path, "rootfs": worker_root},
    }
