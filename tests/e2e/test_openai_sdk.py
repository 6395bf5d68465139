"""The openai SDK in the embedded cluster: through a pool's gateway, and at a worker's pod."""

import pytest
from tests.integration.story import ask, make_pool, wait_until

from .openaichecks import CHECKS, Asker, Target, check_names

POOL = "clients"


@pytest.fixture(scope="module")
def urls(sluice):
    """The URLs of gateway and worker of a pool of one worker: so nothing depends on which one."""
    variants = [{"acceleratorClass": "maia-200", "min": 1, "max": 1}]
    sluice.create(make_pool(POOL, variants=variants))
    wait_until(lambda: sluice.serving(POOL, "maia-200") == 1, "its worker serves")
    gateway = sluice.gateway()
    wait_until(lambda: ask(gateway, POOL)[0] == 200, "the gateway serves it")
    (worker,) = sluice.workers(POOL)
    yield {"gateway": gateway, "worker": f"http://{worker['status']['podIP']}:8000"}
    sluice.delete_pool(POOL)


@pytest.mark.parametrize("through", ["gateway", "worker"])
@pytest.mark.parametrize("check", CHECKS, ids=check_names)
def test_the_openai_sdk_works_unchanged(urls, through, check):
    target = Target(urls[through], POOL, urls["worker"])
    with target.connect() as client:
        check(Asker(target, client))
