"""The loaders side by side, each in fresh processes: ``python -m helpers.bench``."""
