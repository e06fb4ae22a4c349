"""Networks of PyTorch, exported to ONNX: what the importer of ONNX into Keras is judged by."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Residual(nn.Module):
    """Two convolutions with a way around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.way = nn.Conv2d(before, after, 1, stride) if (before, stride) != (after, 1) else nn.Identity()

    def forward(self, x: Any) -> Any:
        return torch.relu(self.body(x) + self.way(x))


def resnet() -> nn.Module:
    """A ResNet of three blocks."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        Residual(8, 8, 1),
        Residual(8, 16, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


class Squeeze(nn.Module):
    """Channels weighed by their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, 4, 1),
            nn.ReLU(),
            nn.Conv2d(4, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Any) -> Any:
        return x * self.gate(x)


def mobilenet() -> nn.Module:
    """Depthwise convolutions, squeeze and excitation, hard swish."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.Hardswish(),
        nn.Conv2d(8, 8, 5, 2, 2, groups=8),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        Squeeze(8),
        nn.Conv2d(8, 16, 1),
        nn.PReLU(16),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 10),
    )


class UNet(nn.Module):
    """Down, up, and what was before beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.last = nn.Conv2d(16, 2, 1)

    def forward(self, x: Any) -> Any:
        first = torch.relu(self.down(x))
        deep = torch.relu(self.deep(nn.functional.max_pool2d(first, 2)))
        up = self.up(deep)
        far = nn.functional.interpolate(deep.mean(1, keepdim=True), scale_factor=2.0, mode="nearest")
        return torch.softmax(self.last(torch.cat([first, up], 1)) + far, 1)


class Shuffle(nn.Module):
    """Groups of channels, mixed by reshape and transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, 2, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)

    def forward(self, x: Any) -> Any:
        parted = torch.relu(self.first(x)).reshape(1, 4, 4, 16, 16)
        return self.grouped(parted.transpose(1, 2).reshape(1, 16, 16, 16)).mean((2, 3))


class Recurrent(nn.Module):
    """A recurrent layer and a dense one."""

    def __init__(self, kind: str, *, both: bool) -> None:
        super().__init__()
        self.recurrent = getattr(nn, kind)(8, 12, batch_first=True, bidirectional=both)
        self.dense = nn.Linear(24 if both else 12, 4)

    def forward(self, x: Any) -> Any:
        return self.dense(self.recurrent(x)[0])


class WithState(nn.Module):
    """An LSTM whose state goes in and comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 12)

    def forward(self, x: Any, h: Any, c: Any) -> Any:
        y, (h, c) = self.lstm(x, (h, c))
        return y, h, c


class Patches(nn.Module):
    """A picture as words, through a transformer's layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 32, 8, 8)
        self.place = nn.Parameter(torch.randn(1, 16, 32))
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, activation="gelu", batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        words = self.embed(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.layer(words).mean(1))


class Text(nn.Module):
    """Embeddings and group normalization over a line."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)

    def forward(self, ids: Any) -> Any:
        return self.norm(self.conv(self.embed(ids).transpose(1, 2))).amax(2)


_PICTURE = (1, 3, 32, 32)
_Case = tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...], int]

# name -> network, input shapes, transposes allowed in Keras and in TFLite: what the border asks for.
NETWORKS: dict[str, _Case] = {
    "resnet": (resnet, (_PICTURE,), 1),
    "mobilenet": (mobilenet, (_PICTURE,), 2),
    "unet": (UNet, (_PICTURE,), 2),
    "shuffle": (Shuffle, (_PICTURE,), 2),
    "patches": (Patches, (_PICTURE,), 5),
    "lstm": (lambda: Recurrent("LSTM", both=False), ((1, 6, 8),), 0),
    "bigru": (lambda: Recurrent("GRU", both=True), ((1, 6, 8),), 0),
    "birnn": (lambda: Recurrent("RNN", both=True), ((1, 6, 8),), 0),
    "state": (WithState, ((6, 1, 8), (1, 1, 12), (1, 1, 12)), 0),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(4, 8, 5, 2, 2), nn.ELU(), nn.AvgPool1d(3, 2, 1)), ((1, 4, 33),), 2),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 4, 3, 1, 1), nn.LeakyReLU()), ((1, 2, 8, 8, 8),), 2),
    "text": (Text, ((1, 7),), 3),
}


def export(name: str, folder: Path) -> Path:
    """Write one network as ONNX."""
    torch.manual_seed(0)
    build, shapes, _ = NETWORKS[name]
    module = build()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, 0.2)
            nn.init.normal_(part.running_mean, 0.0, 0.2)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    inputs = tuple(torch.zeros(shape, dtype=torch.int64) if name == "text" else torch.randn(shape) for shape in shapes)
    path = folder / f"{name}.onnx"
    names = [f"in{i}" for i in range(len(shapes))]
    with warnings.catch_warnings():  # the exporter only makes the input here, and says it is old
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            inputs,
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=names,
            training=torch.onnx.TrainingMode.PRESERVE,  # else batch normalization is folded away
        )
    return path
