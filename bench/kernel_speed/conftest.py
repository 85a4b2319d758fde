"""Lets the benchmarks be run by pytest: `python -m pytest bench/kernel_speed --benchmark-only`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
