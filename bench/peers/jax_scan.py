"""JAX: a whole run of steps as one jitted lax.scan, Adam by hand; one model, or many by vmap.

The grammar's nets only.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np

from bench.peers.population import orders
from golf_opt.engines.base import data_order, initial_weights
from golf_opt.task import layers
from golf_opt.task.arch import Net
from golf_opt.task.data import Split
from golf_opt.task.inputs import MNIST

(MEAN,), (STD,) = MNIST.mean, MNIST.std

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch is on the same GPU

KNOWN = (layers.Conv, layers.Linear, layers.ReLU, layers.PReLU, layers.LeakyReLU, layers.MaxPool)


def supports(net: Net) -> bool:
    """Whether this file can express the net, and JAX is installed."""
    try:
        import jax  # noqa: F401
    except ImportError:
        return False
    return all(type(node.layer) in KNOWN for node in net.nodes)


class Scan:
    name = "jax"

    def __init__(self, net: Net, train: Split, batch_size: int, platform: str = "cpu") -> None:
        import jax

        self.batch_size = batch_size
        self.device = jax.devices(platform)[0]  # RuntimeError where JAX has no such backend
        self.order = self._orders(len(train))
        data = self._pixels(train.images), train.labels
        self.data = jax.device_put(data, self.device)
        weights = self._weights(net)
        zeros = jax.tree.map(np.zeros_like, weights)
        self.state: Any = jax.device_put((weights, zeros, zeros, np.float32(0)), self.device)
        update = self._update(net)
        self.scan = jax.jit(
            lambda state, data, batches: jax.lax.scan(
                lambda state, index: (update(state, data, index), None), state, batches
            )[0]
        )

    def run(self, steps: int) -> int:
        import jax

        index = self._index(steps)
        self.state = jax.block_until_ready(self.scan(self.state, self.data, index))
        return index.size

    def _orders(self, n: int) -> Any:
        return data_order(0, 0, n)

    def _weights(self, net: Net) -> Any:
        return initial_weights(net, 0)

    def _pixels(self, images: Any) -> Any:
        """Return all images as they are kept."""
        return (np.float32(images) / 255 - MEAN) / STD

    def _batch(self, images: Any) -> Any:
        """Return the images of a batch as the net takes them."""
        return images

    def _index(self, steps: int) -> Any:
        return np.resize(self.order, (steps, self.batch_size))

    def _update(self, net: Net) -> Any:
        return self._step(net)

    def _step(self, net: Net) -> Any:
        import jax
        import jax.numpy as jnp

        def loss(weights: Any, x: Any, y: Any) -> Any:
            scores = jax.nn.log_softmax(_forward(net, weights, x))
            return -jnp.take_along_axis(scores, y[:, None].astype(int), 1).mean()

        def step(state: Any, data: Any, index: Any) -> Any:
            weights, first, second, count = state
            images, labels = data
            gradients = jax.grad(loss)(weights, self._batch(images[index]), labels[index])
            count = count + 1
            tree = jax.tree.map
            first = tree(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
            second = tree(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
            size, scale = 1e-3 / (1 - 0.9**count), 1 / jnp.sqrt(1 - 0.999**count)
            weights = tree(
                lambda w, m, v: w - size * m / (jnp.sqrt(v) * scale + 1e-8), weights, first, second
            )
            return weights, first, second, count

        return step


class ScanPopulation(Scan):
    """Models with weights and data order of their own, seeds 0, 1, ...; images stay uint8."""

    name = "jax vmap"

    def __init__(
        self, net: Net, train: Split, batch_size: int, size: int, platform: str = "gpu"
    ) -> None:
        self.size = size
        super().__init__(net, train, batch_size, platform)

    def _orders(self, n: int) -> Any:
        return orders(self.size, n).T.astype(np.int32)

    def _weights(self, net: Net) -> Any:
        drawn = [initial_weights(net, seed) for seed in range(self.size)]
        return {name: np.stack([of[name] for of in drawn]) for name in drawn[0]}

    def _pixels(self, images: Any) -> Any:
        return images

    def _batch(self, images: Any) -> Any:
        return images.astype(np.float32) / (255 * STD) - MEAN / STD

    @cache  # noqa: B019
    def _index(self, steps: int) -> Any:
        """Return [steps, size, batch] on the device."""
        import jax

        rows = np.resize(self.order, (steps * self.batch_size, self.size))
        index = rows.reshape(steps, self.batch_size, self.size).transpose(0, 2, 1)
        return jax.device_put(index, self.device)

    def _update(self, net: Net) -> Any:
        import jax

        axes = (0, 0, 0, None)  # of weights, moments and the count of steps
        return jax.vmap(self._step(net), in_axes=(axes, None, 0), out_axes=axes)


def _forward(net: Net, weights: Any, x: Any) -> Any:
    import jax
    import jax.numpy as jnp

    for node in net.nodes:
        layer = node.layer
        weight = weights.get(f"weights/{node.name}.weight")
        if isinstance(layer, layers.Conv):
            x = jax.lax.conv(x, weight, layer.strides, layer.padding.upper())
            x = x + weights[f"weights/{node.name}.bias"][:, None, None]
        elif isinstance(layer, layers.Linear):
            x = x.reshape(len(x), -1) @ weight.T + weights[f"weights/{node.name}.bias"]
        elif isinstance(layer, layers.MaxPool):
            window = (1, 1, *layer.sizes)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        elif isinstance(layer, layers.PReLU):
            x = jnp.where(x > 0, x, weight[:, None, None] * x)
        else:
            slope = layer.slope if isinstance(layer, layers.LeakyReLU) else 0.0
            x = jnp.where(x > 0, x, slope * x)
    return x
