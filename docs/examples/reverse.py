"""A small transformer learns to reverse a sequence: two objectives, its loss and its size.

golf-opt study objective=reverse:train space=reverse.yaml epochs=4 trials=20 \
    'directions={loss: minimize, parameters: minimize}'
"""

from collections.abc import Iterator

import torch
from torch import nn

from golf_opt.engines.python import ObjectiveJob

SYMBOLS, LENGTH, STEPS, BATCH = 8, 6, 30, 64


class Reverser(nn.Module):
    """Says which symbol stands at each place of the reversed sequence."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(SYMBOLS, width)
        self.places = nn.Parameter(torch.randn(LENGTH, width) * 0.1)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, SYMBOLS)

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.body(self.symbols(sequences) + self.places))
        return scores


def train(job: ObjectiveJob) -> Iterator[dict[str, float]]:
    """Yield the mean loss of an epoch, and how many parameters the transformer has."""
    torch.manual_seed(job.seed)
    model = Reverser(job.params["width"], job.params["heads"], job.params["layers"])
    optimizer = torch.optim.Adam(model.parameters(), job.params["lr"])
    draw = torch.Generator().manual_seed(job.seed)
    if job.done:
        saved = torch.load(job.checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        draw.set_state(saved["draw"])
    size = sum(weights.numel() for weights in model.parameters())
    for _ in range(job.done, job.epochs):
        losses = []
        for _ in range(STEPS):
            sequences = torch.randint(SYMBOLS, (BATCH, LENGTH), generator=draw)
            scores = model(sequences).flatten(0, 1)
            loss = nn.functional.cross_entropy(scores, sequences.flip(1).flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state | {"draw": draw.get_state()}, job.checkpoint)
        yield {"loss": sum(losses) / len(losses), "parameters": size}
