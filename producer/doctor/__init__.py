"""`apf doctor`: checks of settings, queue, weights and stores."""
