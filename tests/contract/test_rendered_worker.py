"""A worker that is started as the operator renders it does what class and pool say."""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package

import json
from pathlib import Path

import pytest

from sluice.model.keys import PoolKey
from sluice.render.worker import render_template

from ..unit.render.golden import IMAGE, read_classes, read_pool
from ..unit.worker.workerprocess import WorkerProcess

COMPACT = Path(__file__).parents[2] / "workers" / "models" / "compact"
OURS = ("--model-path=", "--served-model-name=", "--host=", "--port=", "--startup-seconds=")
"""What depends on where it runs, and the wait for an emulated start."""


@pytest.mark.parametrize(
    ("class_name", "said", "numerics"),
    [("maia-200", None, "fp8-block"), ("h100", None, "fp8-row"), ("maia-200", "fp4", "fp4")],
)
def test_it_is_paced_and_asked_for_known_answers_in_its_numerics(
    tmp_path: Path, class_name: str, said: str | None, numerics: str
) -> None:
    pool, accelerator = read_pool(), read_classes()[class_name]
    variant = next(each for each in pool.variants if each.accelerator_class == class_name)
    variant = variant.model_copy(update={"numerics": said})
    template = render_template(PoolKey("default", "chat"), pool, variant, accelerator, IMAGE)
    rendered = template["spec"]["containers"][0]["args"]
    arguments = [one for one in rendered if not one.startswith(OURS)]
    worker = WorkerProcess(COMPACT, tmp_path, *arguments)
    try:
        worker.until("/readyz", 200)
        known = json.loads(worker.get("/internal/known-answers")[1])
    finally:
        worker.close()
    assert known["numerics"] == numerics
    assert known["answers"]
    assert '"emulated memory"' in worker.log.read_text()
