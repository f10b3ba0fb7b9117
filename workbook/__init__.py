"""The apparatus of the notebooks: benchmark, panel, samples, plots. Imports helpers; helpers never imports it."""
