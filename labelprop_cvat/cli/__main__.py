"""``python -m labelprop_cvat.cli``."""

import sys

from labelprop_cvat.cli import main

if __name__ == "__main__":
    sys.exit(main())
