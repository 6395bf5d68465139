"""A world that has settled under load: where most tests of the planner begin."""

import copy
import functools

from .world import World

SECONDS = 80


def settle(rate=4.0):
    """Return a world that has served `rate` requests/s for long enough that nothing moves.

    It is the caller's own. The passes that lead there are the same each time, so they run once.
    """
    return fork(_settle(rate))


@functools.cache
def _settle(rate):
    world = World()
    world.rate["chat"] = rate
    world.run(SECONDS)
    return world


def fork(world):
    """Return a world that goes its own way from here; only what nobody changes is shared."""
    made = copy.copy(world)
    for name, value in vars(world).items():
        if isinstance(value, dict | list | set):
            setattr(made, name, copy.copy(value))
    return made
