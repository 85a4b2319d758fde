"""Lets the benchmarks be run by pytest: `python -m pytest bench/kernel_speed --benchmark-only`."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads must not spin
sys.path.insert(0, str(Path(__file__).parent))
