"""The table that importers' tables are based on."""

from __future__ import annotations

from hub_onnxgraph.table import Table

BASE = Table("hub_onnxgraph.ops")
