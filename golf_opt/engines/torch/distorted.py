"""Images distorted by PyTorch, as compiled code distorts them while it reads them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from golf_opt.task.distortion import Sources


def distorted(images: Tensor, where: Sources, background: Tensor) -> Tensor:
    """Return images sampled bilinearly.

    Args:
        images: [n, channels, height, width].
        where: their pixels come from.
        background: what zero bytes are there, [channels, 1, 1].
    """
    height, width = images.shape[-2:]
    grid = np.stack([(2 * where.x + 1) / width - 1, (2 * where.y + 1) / height - 1], axis=-1)
    kept = torch.from_numpy(where.kept).to(images)[:, None]
    sampled = F.grid_sample(
        (images - background) * kept,
        torch.from_numpy(grid).to(images),
        padding_mode="zeros",
        align_corners=False,
    )
    return sampled + background
