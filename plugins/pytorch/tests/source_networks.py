"""Networks for the tests of ONNX -> PyTorch: one for each kind of layer that the source form knows, and whole ones."""

# torch is untyped here, so its classes cannot be subclassed in strict mode.
# mypy: disable-error-code="misc"
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from plugins.pytorch.tests.torch_networks import NETWORKS as WHOLE
from plugins.pytorch.tests.torch_networks import Network

IMAGE = {"image": torch.randn(2, 3, 16, 24)}
SIDES = {"image": {0: "batch", 2: "height", 3: "width"}}
AT_SIDES = ({"batch": 1, "height": 16, "width": 32}, {"batch": 3, "height": 32, "width": 16})
BATCH = {"image": {0: "batch"}}
STEPS = {"steps": torch.randn(2, 5, 6)}
OVER_TIME = {"steps": {0: "batch", 1: "length"}}
AT_LENGTHS = ({"batch": 1, "length": 3}, {"batch": 4, "length": 9})


class Calls(nn.Module):
    """A layer or several, and what is to be done with them."""

    def __init__(self, call: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.call = call
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Any) -> Any:
        return self.call(self, *inputs)


def calls(call: Callable[..., Any], **layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Calls(call, **{name: make() for name, make in layers.items()})


def stack(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(make() for make in layers))


def trained_norm(make: Callable[[], Any]) -> Callable[[], Any]:
    """A normalization whose statistics and weights are not those of a new one."""

    def made() -> Any:
        layer = make()
        with torch.no_grad():
            for tensor in (*layer.parameters(), *(b for b in layer.buffers() if b.is_floating_point())):
                tensor.uniform_(0.5, 1.5)
        return layer

    return made


def residual(self: Any, image: Any) -> Any:
    x = functional.relu(self.norm(self.first(image)))
    return functional.adaptive_avg_pool2d(x + self.second(x), 1).flatten(1)


def tokens(self: Any, ids: Any) -> Any:
    return self.head(self.norm(self.table(ids).mean(1)))


def states(self: Any, steps: Any, h: Any, c: Any) -> Any:
    y, (h, c) = self.lstm(steps, (h, c))
    return self.head(y), h, c


def attention(self: Any, steps: Any) -> Any:
    return self.attention(steps, steps, steps, need_weights=False)[0]


def twice(self: Any, steps: Any) -> Any:
    return self.layer(functional.gelu(self.layer(steps)))


def masked(self: Any, steps: Any) -> Any:
    x = torch.where(steps > 0.5, torch.full_like(steps, 2.0), steps * 0.3 - 1.5)
    return torch.cat([torch.softmax(self.layer(x), -1), x.cumsum(1)[..., 1:3]], -1)


LAYERS = {
    "convolutions": Network(
        stack(
            lambda: nn.Conv2d(3, 8, 3, padding=1, bias=False),
            trained_norm(lambda: nn.GroupNorm(2, 8)),
            nn.ReLU,
            lambda: nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
            lambda: nn.PReLU(8),
            lambda: nn.Conv2d(8, 4, (1, 3), dilation=(1, 2), padding=(0, 2)),
        ),
        IMAGE,
        SIDES,
        AT_SIDES,
    ),
    "batch norm": Network(
        calls(
            residual,
            first=lambda: nn.Conv2d(3, 8, 3, padding=1),
            norm=trained_norm(lambda: nn.BatchNorm2d(8)),
            second=lambda: nn.Conv2d(8, 8, 3, padding=1),
        ),
        IMAGE,
        SIDES,
        AT_SIDES,
    ),
    "norm alone": Network(trained_norm(lambda: nn.BatchNorm2d(3, eps=0.01)), IMAGE, SIDES, AT_SIDES),
    "instance norm": Network(trained_norm(lambda: nn.InstanceNorm2d(3, affine=True)), IMAGE, BATCH),
    "transposed": Network(
        stack(lambda: nn.ConvTranspose2d(3, 5, 3, 2, 1, bias=False), nn.Sigmoid, lambda: nn.ConvTranspose2d(5, 2, 2)),
        IMAGE,
        SIDES,
        AT_SIDES,
    ),
    "pixels": Network(
        stack(lambda: nn.Conv2d(3, 12, 3, padding=1), lambda: nn.PixelShuffle(2), lambda: nn.MaxPool2d(2)),
        IMAGE,
        SIDES,
        AT_SIDES,
    ),
    "perceptron": Network(
        stack(lambda: nn.Linear(6, 9), nn.Tanh, lambda: nn.Linear(9, 4, bias=False), nn.GELU),
        STEPS,
        OVER_TIME,
        AT_LENGTHS,
    ),
    "layer norm": Network(
        stack(trained_norm(lambda: nn.LayerNorm(6)), lambda: nn.Linear(6, 6), nn.SiLU), STEPS, OVER_TIME, AT_LENGTHS
    ),
    "one layer twice": Network(calls(twice, layer=lambda: nn.Linear(6, 6)), STEPS, OVER_TIME, AT_LENGTHS),
    "embedding": Network(
        calls(
            tokens,
            table=lambda: nn.Embedding(99, 12),
            norm=trained_norm(lambda: nn.LayerNorm(12)),
            head=lambda: nn.Linear(12, 3),
        ),
        {"ids": torch.randint(0, 99, (2, 7))},
        {"ids": {0: "batch", 1: "length"}},
        AT_LENGTHS,
    ),
    "gru": Network(
        calls(lambda self, steps: self.gru(steps)[0], gru=lambda: nn.GRU(6, 5, bidirectional=True)),
        STEPS,
        {"steps": {1: "batch"}},
        ({"batch": 1}, {"batch": 5}),
    ),
    "states": Network(
        calls(states, lstm=lambda: nn.LSTM(6, 8, batch_first=True), head=lambda: nn.Linear(8, 2)),
        {**STEPS, "h": torch.randn(1, 2, 8), "c": torch.randn(1, 2, 8)},
        {"steps": {0: "batch"}, "h": {1: "batch"}, "c": {1: "batch"}},
    ),
    "attention": Network(
        calls(attention, attention=lambda: nn.MultiheadAttention(6, 2, batch_first=True)),
        STEPS,
        {"steps": {0: "batch"}},
    ),
    "numbers": Network(calls(masked, layer=lambda: nn.Linear(6, 6)), STEPS, OVER_TIME, AT_LENGTHS),
    "signal": Network(
        stack(lambda: nn.Conv1d(5, 8, 3, stride=2), nn.ELU, lambda: nn.AvgPool1d(2)), STEPS, {"steps": {0: "batch"}}
    ),
}
NETWORKS = {**LAYERS, **WHOLE}
