"""The steps on a GPU: many faces at once, by torch. Nothing that runs on a CPU imports it."""
