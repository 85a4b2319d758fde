"""What hypothesis draws in the kernel tests: sizes, layouts, masks."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from kernel_cases import FLOATS, LAYOUTS, LIBRARIES, TEST_DEVICE

# Around the virtual width of 16 lanes, primes that no tile divides, and one above 1024 and, times
# 17 rows, 16384 elements: blocks that work is cut into.
LENGTHS = (0, 1, 15, 16, 17, 31, 33, 37, 127, 1031)
ROWS = (0, 1, 2, 3, 5, 17)

# The emulator of a device is slow.
NUM_EXAMPLES = 8 if TEST_DEVICE == "emulated" else 40
settings.register_profile("kernels", deadline=None, derandomize=True, max_examples=NUM_EXAMPLES)
few_examples = settings(settings.get_profile("kernels"))
fewer_examples = settings(few_examples, max_examples=NUM_EXAMPLES // 2)

rows = st.sampled_from(ROWS)
lengths = st.sampled_from(LENGTHS)
seeds = st.integers(0, 2**32 - 1)
layouts = st.sampled_from(LAYOUTS)
libraries = st.sampled_from(LIBRARIES)
shapes = st.tuples(rows, lengths)
sources = st.tuples(libraries, layouts)
float_dtypes = st.sampled_from(FLOATS)
integer_dtypes = st.sampled_from(("int32", "int64"))
mask_kinds = st.sampled_from(("absent", "all", "none", "right_padded", "left_padded", "holes"))
