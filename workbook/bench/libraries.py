"""The files that importing a model's class reads: ``python -m workbook.bench.libraries FOLDER``."""

import json
import sys
from pathlib import Path

from workbook.bench.models import Model


def main(folder):
    """Import the class and print the paths of all code and shared libraries as JSON."""
    from helpers import deserialise  # noqa: F401 - what a load imports counts too

    Model("", Path(folder)).model_class()
    modules = [vars(module) for module in list(sys.modules.values()) if hasattr(module, "__dict__")]
    found = {module.get(key) for module in modules for key in ("__file__", "__cached__")}
    maps = Path("/proc/self/maps")
    if maps.exists():
        found |= {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines()}
    print(json.dumps(sorted(name for name in found if isinstance(name, str) and Path(name).is_file())))


if __name__ == "__main__":
    main(sys.argv[1])
