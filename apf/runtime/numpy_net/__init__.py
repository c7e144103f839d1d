"""Networks without torch: ONNX files read and run by NumPy alone, for a device that cannot carry more.

ONNX Runtime would be a third faster, but is 76 MB, on top of NumPy's 57, and the client of private mode is to stay
under 100.
"""
