"""The panel of notebook 10: what it does (`runs`, `child`, `costs`), and its controls (`widgets`)."""
