"""JAX: a whole run of steps as one jitted lax.scan, Adam by hand. The grammar's nets only."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from golf_opt import arch
from golf_opt.arch import Net
from golf_opt.data import MEAN, STD, Split
from golf_opt.engines.base import data_order, initial_weights

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

KNOWN = (arch.Conv, arch.Linear, arch.ReLU, arch.PReLU, arch.LeakyReLU, arch.MaxPool)


def supports(net: Net) -> bool:
    """Whether this file can express the net, and JAX is installed."""
    try:
        import jax  # noqa: F401
    except ImportError:
        return False
    return all(type(node.layer) in KNOWN for node in net.nodes)


class Scan:
    name = "jax"

    def __init__(self, net: Net, train: Split, batch_size: int) -> None:
        import jax
        import jax.numpy as jnp

        self.batch_size = batch_size
        tensors = initial_weights(net, 0)
        self.weights = {name: jnp.asarray(values) for name, values in tensors.items()}
        zeros = {name: jnp.zeros_like(values) for name, values in self.weights.items()}
        self.state: Any = (self.weights, zeros, zeros, 0.0)
        images = (np.float32(train.images) / 255 - MEAN) / STD
        self.images, self.labels = jnp.asarray(images[:, None]), jnp.asarray(train.labels)
        self.order = data_order(0, 0, len(train))
        self.scan = jax.jit(lambda state, batches: jax.lax.scan(self._step(net), state, batches)[0])

    def run(self, steps: int) -> int:
        import jax

        index = np.resize(self.order, (steps, self.batch_size))
        self.state = jax.block_until_ready(self.scan(self.state, index))
        return steps * self.batch_size

    def _step(self, net: Net) -> Any:
        import jax
        import jax.numpy as jnp

        def loss(weights: Any, x: Any, y: Any) -> Any:
            scores = jax.nn.log_softmax(_forward(net, weights, x))
            return -jnp.take_along_axis(scores, y[:, None].astype(int), 1).mean()

        def step(state: Any, index: Any) -> Any:
            weights, first, second, count = state
            gradients = jax.grad(loss)(weights, self.images[index], self.labels[index])
            count = count + 1
            tree = jax.tree.map
            first = tree(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
            second = tree(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
            size, scale = 1e-3 / (1 - 0.9**count), 1 / jnp.sqrt(1 - 0.999**count)
            weights = tree(
                lambda w, m, v: w - size * m / (jnp.sqrt(v) * scale + 1e-8), weights, first, second
            )
            return (weights, first, second, count), None

        return step


def _forward(net: Net, weights: Any, x: Any) -> Any:
    import jax
    import jax.numpy as jnp

    for node in net.nodes:
        layer = node.layer
        weight = weights.get(f"weights/{node.name}.weight")
        if isinstance(layer, arch.Conv):
            x = jax.lax.conv(x, weight, (layer.stride, layer.stride), layer.padding.upper())
            x = x + weights[f"weights/{node.name}.bias"][:, None, None]
        elif isinstance(layer, arch.Linear):
            x = x.reshape(len(x), -1) @ weight.T + weights[f"weights/{node.name}.bias"]
        elif isinstance(layer, arch.MaxPool):
            window = (1, 1, layer.size, layer.size)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        elif isinstance(layer, arch.PReLU):
            x = jnp.where(x > 0, x, weight[:, None, None] * x)
        else:
            slope = layer.slope if isinstance(layer, arch.LeakyReLU) else 0.0
            x = jnp.where(x > 0, x, slope * x)
    return x
