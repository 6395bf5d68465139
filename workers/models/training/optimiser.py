"""One step of training: Muon for matrices, Adam for embeddings and norms, a mean of the weights.

Muon (K. Jordan et al., 2024) takes the momentum's nearest orthogonal matrix, by five Newton-Schulz
steps: a sixth more work a step, for which its authors need a quarter fewer tokens than with Adam.
The rate is constant after a warm-up, so that a training can always go on; a moving mean of the
weights stands in for the decay that ends one (warm-up, stable, decay: S. Hu et al., 2024).
"""

from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.training.network import Network, Weights

MATRIX_RATE: Final = 0.02
OTHER_RATE: Final = 0.003
WARMUP: Final = 200
"""Steps."""
_MOMENTUM: Final = 0.95
_DECAY: Final = 0.05
"""Weight decay of matrices, times their rate."""
_BETAS: Final = 0.9, 0.98
_MEAN: Final = 0.998
"""Of the mean of the weights: it covers about 500 steps, 2 million tokens."""
_LARGEST_SLOPE: Final = 1.0
"""Norm of the gradient that larger ones are shortened to."""


class Training(NamedTuple):
    """What a step changes.

    Attributes:
        weights: by name.
        first: momentum of each weight.
        second: mean square of the gradient, for weights that Adam updates.
        mean: moving mean of the weights: what is evaluated and exported.
        step: steps taken.
    """

    weights: Weights
    first: Weights
    second: Weights
    mean: Weights
    step: jax.Array


def is_matrix(name: str) -> bool:
    """Tell whether Muon updates a weight."""
    return "_proj" in name


def start_training(network: Network, seed: int) -> Training:
    """Return the beginning."""
    weights = network.draw_weights(seed)
    return Training(
        weights=weights,
        first={name: np.zeros_like(one) for name, one in weights.items()},
        second={n: np.zeros_like(one) for n, one in weights.items() if not is_matrix(n)},
        mean={name: np.copy(one) for name, one in weights.items()},
        step=np.int32(0),
    )


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def take_step(
    network: Network, training: Training, batch: tuple[Any, Any, Any], rate: jax.Array
) -> tuple[Training, jax.Array]:
    """Return the training after one step, and the mean cross entropy before it, in nats.

    Args:
        network: the model.
        training: is used up.
        batch: tokens, chats and learned, (rows, length + 1) each.
        rate: share of the full learning rate, from 0 to 1.
    """
    losses = jax.value_and_grad(network.measure_loss, has_aux=True)
    (_, entropy), slopes = losses(training.weights, *batch)
    size = jnp.sqrt(sum(jnp.vdot(slope, slope) for slope in slopes.values()))
    shrink = jnp.minimum(1.0, _LARGEST_SLOPE / (size + 1e-6))
    step = training.step + 1
    rate = rate * jnp.minimum(1.0, step / WARMUP)
    first, second, updates = {}, {}, {}
    for name, slope in slopes.items():
        if is_matrix(name):
            first[name] = _MOMENTUM * training.first[name] + shrink * slope
            updates[name] = shrink * slope + _MOMENTUM * first[name]
            continue
        one, two = _BETAS
        first[name] = one * training.first[name] + (1 - one) * shrink * slope
        second[name] = two * training.second[name] + (1 - two) * (shrink * slope) ** 2
        scale = jnp.sqrt(second[name] / (1 - two**step)) + 1e-8
        updates[name] = OTHER_RATE * first[name] / (1 - one**step) / scale
    updates |= _make_orthogonal({n: one for n, one in updates.items() if is_matrix(n)})
    weights, mean = {}, {}
    # Early on the mean covers a tenth of the steps, so that it does not lag behind.
    kept = jnp.minimum(_MEAN, 1 - 10 / (step + 10))
    for name, old in training.weights.items():
        decay = MATRIX_RATE * _DECAY * rate if is_matrix(name) else 0.0
        weights[name] = old * (1 - decay) - rate * updates[name]
        mean[name] = kept * training.mean[name] + (1 - kept) * weights[name]
    return Training(weights, first, second, mean, step), entropy


def _make_orthogonal(moments: Weights) -> Weights:
    """Return the updates of all matrices: same shapes together, which is faster than one by one."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name, moment in moments.items():
        rows, columns = moment.shape
        groups.setdefault((min(rows, columns), max(rows, columns)), []).append(name)
    updates = {}
    for names in groups.values():
        tall = [moments[name].shape[0] > moments[name].shape[1] for name in names]
        stack = jnp.stack(
            [moments[n].T if up else moments[n] for n, up in zip(names, tall, strict=True)]
        )
        for name, up, flat in zip(names, tall, orthogonalise(stack), strict=True):
            rows, columns = moments[name].shape
            scale = MATRIX_RATE * max(1.0, rows / columns) ** 0.5
            updates[name] = scale * (flat.T if up else flat)
    return updates


def orthogonalise(stack: jax.Array) -> jax.Array:
    """Return nearly the orthogonal matrices nearest to those of a stack (count, rows, columns)."""
    norms = jnp.sqrt((stack * stack).sum((1, 2), keepdims=True))
    x = stack / (norms + 1e-7)
    for _ in range(5):
        a = x @ x.swapaxes(1, 2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


@partial(jax.jit, static_argnums=0)
def find_wrong(network: Network, weights: Weights, batch: tuple[Any, Any, Any]) -> jax.Array:
    """Return where the likeliest token is not the learned one, see `Network.find_wrong`."""
    return network.find_wrong(weights, *batch)
