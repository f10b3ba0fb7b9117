"""The panel of the last notebook: what is asked (`request`, `sources`), what is done (`runs`, `child`, `loads`),
what is told before and after (`estimate`, `table`, `chart`), its controls (`widgets`), and the calculator.
"""
