"""The filter and the detector on a CPU, by ONNX Runtime: half the time of torch there, and ready in a tenth of it."""
