"""What the gradient of private mode gives away, and what reducing it costs."""
