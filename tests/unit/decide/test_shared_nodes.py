"""A node of two classes is judged by the strictest rules of both, whatever they are called."""

import pytest

from sluice.decide.matching import find_class

from .samples import CLASSES
from .world import World


def spare(**health):
    """Return a second class on the maia nodes, judged otherwise."""
    rules = CLASSES["maia"].health.model_copy(update=health)
    return CLASSES["maia"].model_copy(update={"health": rules})


@pytest.fixture(params=["a-spare", "z-spare"])
def world(request):
    """Return a world whose maia nodes another class selects too, before or after it by name."""
    world = World()
    world.spare = request.param
    world.rate["chat"] = 4.0
    world.run(80)
    return world


def test_the_strictest_rules_of_all_classes_judge_a_node_whatever_their_names(world):
    spares = {"node_conditions": ["LinkHealthy"], "return_after": 50.0, "latch_after_flaps": 2}
    world.classes[world.spare] = spare(**spares)
    node = next(node for node in world.snapshot().nodes if node.name == "maia-0")
    rules = find_class(node, world.classes).health
    assert set(rules.node_conditions) == {"AcceleratorHealthy", "LinkHealthy"}
    assert (rules.return_after, rules.latch_after_flaps) == (50.0, 2)
    world.classes[world.spare] = spare(return_after=1.0, latch_after_flaps=9)
    rules = find_class(node, world.classes).health
    assert (rules.return_after, rules.latch_after_flaps) == (20.0, 3)


def test_a_condition_that_only_one_class_names_takes_an_empty_node_out_and_is_told(world):
    world.classes[world.spare] = spare(node_conditions=["AcceleratorHealthy"])
    world.classes["maia"] = spare(node_conditions=[])
    world.broken = {"maia-0"}
    world.step()
    reason = world.marks["maia-0"].reason
    assert "AcceleratorHealthy is False" in reason


def test_a_pool_says_that_two_classes_count_the_same_devices(world):
    assert "NodesShared" not in {p.finding for p in world.chat().problems}
    world.classes[world.spare] = spare()
    world.step()
    (said,) = (p.message for p in world.chat().problems if p.finding == "NodesShared")
    assert said.startswith(f"node maia-0 is of class maia and of {world.spare}: both count its")
    other = {"resource_name": "example.com/other"}
    world.classes[world.spare] = spare().model_copy(update=other)
    world.step()
    assert "NodesShared" not in {p.finding for p in world.chat().problems}


def test_a_proof_is_waited_for_as_long_as_the_slowest_class_starts(world):
    slow = CLASSES["maia"].emulation.model_copy(update={"startup": 400.0})
    world.classes[world.spare] = spare().model_copy(update={"emulation": slow})
    world.dead = {"maia-0"}
    world.run(12)
    world.dead = set()
    world.startup = 150.0
    world.run(300)
    assert "maia-0" not in world.marks
