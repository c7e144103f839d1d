"""Train, evaluate, export and show. Nothing that runs in production imports it."""
