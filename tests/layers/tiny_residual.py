"""A residual network of milliseconds with any normalizer of the table, and its training."""

from __future__ import annotations

import torch
from torch import nn

from gnvideo.layers import NormalizerFactory, normalizer_factory

NUM_CHANNELS = 8


class TinyResidual(nn.Module):
    """A convolution, a residual block, and a linear layer on the mean over T, H, W."""

    def __init__(self, make_normalizer: NormalizerFactory) -> None:
        super().__init__()
        kernel, padding = (3, 1, 3), (1, 0, 1)
        self.stem = make_normalizer.make_conv(3, NUM_CHANNELS, (1, 3, 3))
        self.conv1, self.conv2 = (
            make_normalizer.make_conv(NUM_CHANNELS, NUM_CHANNELS, kernel, padding=padding)
            for _ in range(2)
        )
        self.norm1 = make_normalizer(NUM_CHANNELS, "relu")
        self.norm2 = make_normalizer(NUM_CHANNELS)
        self.fc = nn.Linear(NUM_CHANNELS, 3)

    def compute_block(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm2(self.conv2(self.norm1(self.conv1(x)))) + x

    def forward(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        return self.fc(self.compute_block(self.stem(clips_NCTHW)).mean((2, 3, 4)))


def make_tiny_residual(name: str, seed: int = 0) -> TinyResidual:
    """Returns the network with all parameters of normalizers away from their start."""
    torch.manual_seed(seed)
    model = TinyResidual(normalizer_factory(name, num_groups=4))
    for norm in (model.norm1, model.norm2):
        for parameter in norm.parameters():
            nn.init.normal_(parameter, parameter[0].item(), 0.2)
    return model


def draw_clips(seed: int, num_clips: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_clips, 3, 3, 6, 5, generator=generator)


def train_steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range, offset: int = 0
) -> None:
    """Trains a step on the clips of each seed; `offset` makes another process's clips."""
    for seed in seeds:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(draw_clips(seed + offset)), torch.arange(3)).backward()
        optimizer.step()


def make_sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def train_a_little(name: str) -> TinyResidual:
    """Returns the network after two steps: its state is neither its start nor another's."""
    model = make_tiny_residual(name)
    train_steps(model, make_sgd(model), range(2))
    return model
