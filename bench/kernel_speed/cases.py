"""All cases by name, in the order in which they are measured and shown."""

import time_large
import time_logits
import time_losses
import time_scans
from workloads import CASES, Case

__all__ = ["CASES", "Case", "time_large", "time_logits", "time_losses", "time_scans"]
