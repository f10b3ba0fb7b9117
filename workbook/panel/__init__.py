"""The panel of the notebook on your own model: what it does (`runs`, `child`, `costs`), and its controls (`widgets`)."""
