"""From photo to aligned face: geometry, alignment, resampling. Without torch."""
