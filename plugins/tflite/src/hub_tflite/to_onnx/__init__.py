"""TFLite to ONNX: reads a flatbuffer and writes an ONNX graph with the same border.

* `registry`: from (operator, version) to the function that writes it; its signature is its contract.
* `ops/`: those functions, by theme.
* `importer`: walks the subgraphs. `builder`: the ONNX graph as it is written. `layout`: removes transposes.
* `edge`: what hub's planner sees.

The result is of opset 21: the oldest with Gelu, int4 and int16 quantization, and axes as inputs, and one that ONNX
Runtime 1.19 and later run whole.
"""
