"""The digit classifier's architecture, for ``samples.digits_torch.model:build`` with ``digits.safetensors``."""

from __future__ import annotations

import torch
from torch import nn


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    """Convolution, batch normalisation and ReLU, as most networks have them."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class DigitNet(nn.Module):  # type: ignore[misc]  # torch carries no types here
    """Three convolution blocks and a linear layer: ``image`` [N, 1, 8, 8] in 0..1 -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        layers = [*_block(1, 16), *_block(16, 32), nn.MaxPool2d(2), *_block(32, 32)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(32 * 4 * 4, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of ten digits."""
        return self.classifier(torch.flatten(self.features(image), 1))


def build() -> nn.Module:
    """The network with fresh weights; load ``digits.safetensors`` into it."""
    return DigitNet()
