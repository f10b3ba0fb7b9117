"""The panel of the last notebook: what it does (`runs`, `child`, `costs`), and its controls (`widgets`)."""
