"""Edges from other formats to OpenVINO IR, through OpenVINO's own frontends."""
