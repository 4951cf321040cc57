"""Makes the modules of this folder importable for its tests, after those of any other."""

from __future__ import annotations

import os
import sys

sys.path.append(os.path.dirname(__file__))
