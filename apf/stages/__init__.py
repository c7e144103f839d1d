"""The three modules of a recipe (gradient, transfer, universal) and their networks."""
