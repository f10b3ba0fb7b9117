"""The loaders side by side, each in fresh processes: ``python -m workbook.bench``."""
