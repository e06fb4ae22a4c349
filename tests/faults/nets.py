"""Small networks of kinds that real ones are made of, trained on the digits within seconds, for the verdict's score.

No bound of the verdict was chosen by looking at them. Each is exported with a batch of one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from samples.digits.data import SEED, load

EPOCHS, BATCH = 12, 32
NOISE = 0.25
"""Standard deviation of what the autoencoder takes off."""


class Residual(nn.Module):
    """Convolutions of a bottleneck, batch norms, and the sum with what came in (ResNet)."""

    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *(nn.Conv2d(width, width // 2, 1, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU()),
            *(nn.Conv2d(width // 2, width // 2, 3, stride, 1, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU()),
            *(nn.Conv2d(width // 2, width, 1, bias=False), nn.BatchNorm2d(width)),
        )
        self.beside = nn.Conv2d(width, width, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu(self.inner(x) + self.beside(x))


class Inverted(nn.Module):
    """Widen, filter each channel by itself, weigh channels, narrow (MobileNetV3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 3 * width
        self.wide = nn.Sequential(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish())
        depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False)
        self.depth = nn.Sequential(depthwise, nn.BatchNorm2d(wide), nn.Hardswish())
        self.weigh = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 8, 1), nn.ReLU(), nn.Conv2d(8, wide, 1), nn.Hardsigmoid())
        )
        self.narrow = nn.Sequential(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depth(self.wide(x))
        return x + self.narrow(y * self.weigh(y))


class Encoder(nn.Module):
    """Rows of the image as words, attention and feed-forward layers with norms before them (ViT)."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.embed, self.heads = nn.Linear(8, width), heads
        self.place = nn.Parameter(0.1 * torch.randn(1, 8, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.attend = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2))
        self.project = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(2))
        self.classify = nn.Linear(width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.embed(image[:, 0]) + self.place
        rows, words, width = x.shape
        for block in range(2):
            y = self.attend[block](self.norms[2 * block](x)).reshape(rows, words, 3, self.heads, width // self.heads)
            query, key, value = y.permute(2, 0, 3, 1, 4)
            weights = torch.softmax(query @ key.transpose(-1, -2) / (width // self.heads) ** 0.5, -1)
            x = x + self.project[block]((weights @ value).transpose(1, 2).reshape(rows, words, width))
            y = nn.functional.gelu(self.up[block](self.norms[2 * block + 1](x)))
            x = x + self.down[block](y)
        return self.classify(self.norms[4](x).mean(1))


class UNet(nn.Module):
    """Down, up by a transposed convolution and by resizing, beside what was there before; a sigmoid at the end."""

    def __init__(self) -> None:
        super().__init__()

        def block(given: int, gives: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(given, gives, 3, stride, 1), nn.BatchNorm2d(gives), nn.LeakyReLU(0.1))

        self.first, self.second, self.third = block(1, 12), block(12, 24, 2), block(24, 32, 2)
        self.up, self.beside = nn.ConvTranspose2d(32, 24, 2, 2), block(48, 24)
        self.last = nn.Sequential(block(36, 16), nn.Conv2d(16, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        one = self.first(image)
        two = self.second(one)
        up = self.beside(torch.cat([self.up(self.third(two)), two], 1))
        up = nn.functional.interpolate(up, scale_factor=2.0, mode="bilinear", align_corners=False)
        return torch.sigmoid(self.last(torch.cat([up, one], 1)))


class Gated(nn.Module):
    """Dilated convolutions along one axis, each gated by a sigmoid (WaveNet)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, width, 3, padding=1)
        self.value = nn.ModuleList(nn.Conv1d(width, width, 3, padding=2**k, dilation=2**k) for k in range(3))
        self.gate = nn.ModuleList(nn.Conv1d(width, width, 3, padding=2**k, dilation=2**k) for k in range(3))
        self.mix = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(3))
        self.classify = nn.Linear(width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.first(image.reshape(image.shape[0], 1, 64))
        total = torch.zeros_like(x)
        for value, gate, mix in zip(self.value, self.gate, self.mix, strict=True):
            y = mix(torch.tanh(value(x)) * torch.sigmoid(gate(x)))
            x, total = x + y, total + y
        return self.classify(torch.relu(total).amax(2))


class Recurrent(nn.Module):
    """A GRU over the rows, both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.GRU(8, 24, batch_first=True, bidirectional=True)
        self.classify = nn.Linear(48, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classify(self.rows(image[:, 0])[0].mean(1))


class Blocks(nn.Module):
    """A convolution, blocks, and a classifier of their channels' means."""

    def __init__(self, width: int, *blocks: nn.Module) -> None:
        super().__init__()
        first = (nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        last = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
        self.all = nn.Sequential(*first, *blocks, *last)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.all(image)


NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: Blocks(24, Residual(24), Residual(24, 2), Residual(24)),
    "mobile": lambda: Blocks(16, Inverted(16), nn.MaxPool2d(2), Inverted(16)),
    "encoder": Encoder,
    "unet": UNet,
    "gated": Gated,
    "bigru": Recurrent,
}


def write(name: str, folder: Path) -> Path:
    """Train a network, write it with its data beside it, and return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    split, model = load(), NETS[name]()
    draw = torch.Generator().manual_seed(SEED)

    def noisy(image: torch.Tensor) -> torch.Tensor:
        return image + NOISE * torch.randn(image.shape, generator=draw) if name == "unet" else image

    image, label = torch.from_numpy(split.train.image)[:, None], torch.from_numpy(split.train.label)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(image)).split(BATCH):
            optimizer.zero_grad()
            gives = model(noisy(image[rows]))
            if name == "unet":
                loss = nn.functional.binary_cross_entropy(gives, image[rows])
            else:
                loss = nn.functional.cross_entropy(gives, label[rows])
            loss.backward()
            optimizer.step()
    for part, kept in (("calibration", split.calibration), ("test", split.test)):
        arrays = {"image": noisy(torch.from_numpy(kept.image)[:, None]).numpy()}
        if part == "test" and name != "unet":
            arrays["label"] = kept.label
        np.savez_compressed(folder / f"{part}.npz", allow_pickle=False, **arrays)
    file = folder / f"{name}.pt2"
    torch.export.save(torch.export.export(model.eval(), (image[:1].clone(),)), file)
    return file
