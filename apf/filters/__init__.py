"""A recipe's filter on the device at hand: by ONNX Runtime on a CPU, by torch on a GPU."""
