"""Networks for tests of PyTorch's edges: small random configurations of what is in the field."""

# torch and transformers are untyped here, so their classes cannot be subclassed in strict mode.
# mypy: disable-error-code="misc"
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

ExampleInputs = dict[str, torch.Tensor]


class Network(NamedTuple):
    """A network, example inputs, which dims are open, and the sizes at which its result is tried."""

    make: Callable[[], nn.Module]
    example: ExampleInputs
    dims: dict[str, dict[int, str]]
    sizes: tuple[dict[str, int], ...] = ({"batch": 1}, {"batch": 5})


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(6, 8, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, sequence: Any) -> Any:
        return self.cell(sequence)[0]


class UNet(nn.Module):
    """Down, up by a transposed convolution with output padding, and a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 6, 3, 2, 1), nn.ConvTranspose2d(6, 3, 3, 2, 1, output_padding=1)

    def forward(self, image: Any) -> Any:
        return torch.cat([self.up(self.down(image).relu()), image], 1)


class First(nn.Module):
    """The first tensor of a transformers model's output: the hidden states."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.config = model, getattr(model, "config", None)

    def forward(self, inputs: Any) -> Any:
        return self.model(inputs)[0]


def hidden(kind: str, **settings: Any) -> nn.Module:
    """A transformers model from a small random configuration."""
    import transformers

    config = getattr(transformers, f"{kind.removesuffix('Model').removesuffix('Encoder')}Config")(**settings)
    return First(getattr(transformers, kind)(config))


def vit() -> nn.Module:
    small = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64}
    return hidden("ViTModel", num_hidden_layers=1, num_attention_heads=4, **small)


def swin() -> nn.Module:
    return hidden("SwinModel", image_size=32, patch_size=2, embed_dim=16, depths=[2], num_heads=[2], window_size=4)


def t5() -> nn.Module:
    return hidden("T5EncoderModel", vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)


def gpt2() -> nn.Module:
    return hidden("GPT2Model", vocab_size=99, n_embd=32, n_layer=1, n_head=4, use_cache=False)


def image(batch: int, height: int, width: int) -> ExampleInputs:
    return {"image": torch.randn(batch, 3, height, width)}


WORDS = {"inputs": torch.randint(0, 99, (2, 7))}
PIXELS = {"inputs": torch.randn(2, 3, 32, 32)}
LENGTHS = ({"batch": 1, "length": 4}, {"batch": 3, "length": 11})
NETWORKS = {
    "lstm": Network(Recurrent, {"sequence": torch.randn(2, 5, 6)}, {"sequence": {0: "batch"}}),
    "unet": Network(
        UNet,
        image(2, 16, 24),
        {"image": {0: "batch", 2: "height", 3: "width"}},
        ({"batch": 1, "height": 32, "width": 8}, {"batch": 3, "height": 8, "width": 20}),
    ),
    "vit": Network(vit, PIXELS, {"inputs": {0: "batch"}}),
    "swin": Network(swin, PIXELS, {"inputs": {0: "batch"}}),
    "t5": Network(t5, WORDS, {"inputs": {0: "batch", 1: "length"}}, LENGTHS),
    "gpt2": Network(gpt2, WORDS, {"inputs": {0: "batch", 1: "length"}}, LENGTHS),
}


def at(network: Network, sizes: dict[str, int]) -> ExampleInputs:
    """Inputs of a network with its open dims at these sizes."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, tensor in network.example.items():
        dims = network.dims.get(name, {})
        shape = [sizes[dims[axis]] if axis in dims else size for axis, size in enumerate(tensor.shape)]
        if tensor.is_floating_point():
            found[name] = torch.randn(shape, generator=generator)
        else:
            found[name] = torch.randint(0, 99, shape, generator=generator)
    return found
