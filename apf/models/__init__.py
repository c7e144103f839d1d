"""The networks: recognisers to fool, the probe that stands for them, and the transfer U-Net."""
