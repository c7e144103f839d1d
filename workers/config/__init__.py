"""Settings from the environment, and which URLs they let a process touch."""
