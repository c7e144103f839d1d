"""Run networks on the machine at hand: cores, ONNX Runtime, CUDA, NumPy alone."""
