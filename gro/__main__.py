"""``python -m gro``."""

from __future__ import annotations

import sys

from gro.cli import main

if __name__ == "__main__":
    sys.exit(main())
