"""Train the digit network and write ``digits.pt2``, ``digits.safetensors`` and its data sets.

Run from the repository's root: ``python -m samples.digits_torch.train``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from samples.digits.data import SEED, Part, Split, load, write_sets
from samples.digits_torch.model import build

HERE = Path(__file__).resolve().parent
EPOCHS, BATCH = 25, 32


def _tensors(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(part.image)[:, None], torch.from_numpy(part.label)


def train(model: nn.Module, part: Part) -> None:
    """Fit ``model`` to the training part with Adam and a cosine schedule."""
    image, label = _tensors(part)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    model.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(label)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(image[rows]), label[rows]).backward()
            optimizer.step()
        schedule.step()


def accuracy(model: nn.Module, part: Part) -> float:
    """Share of ``part`` that the model classifies correctly."""
    image, label = _tensors(part)
    with torch.no_grad():
        return float((model.eval()(image).argmax(1) == label).float().mean())


def save(model: nn.Module, split: Split) -> None:
    """Write the exported program (batch is dynamic), the bare weights and the two data sets."""
    example = _tensors(split.train)[0][:2].clone()  # a view would save the whole training set with the program
    shapes = {"image": {0: torch.export.Dim("batch", min=1, max=1024)}}
    program = torch.export.export(model.eval(), (example,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names the folders of the machine that trained
    torch.export.save(program, HERE / "digits.pt2")
    save_file(model.state_dict(), HERE / "digits.safetensors")
    write_sets(split, HERE, "image", (1, 8, 8))


def main() -> None:
    """Train, save, and say how good it is."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    split, model = load(), build()
    train(model, split.train)
    save(model, split)
    print(f"test accuracy {accuracy(model, split.test):.4f}")


if __name__ == "__main__":
    main()
