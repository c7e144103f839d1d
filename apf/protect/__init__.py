"""From a photo's bytes to its protected bytes, and how much it changed."""
