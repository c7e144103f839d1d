"""Private mode: the device computes the gradient, the server sees that alone, the device applies what comes back."""
