"""Face detectors: the two engines, and the pyramid of scales and tiles that both look through."""
