"""All cases by name, in the order in which they are measured and shown."""

import large_cases
import logit_cases
import loss_cases
import scan_cases
from workloads import CASES, Case

__all__ = ["CASES", "Case", "large_cases", "logit_cases", "loss_cases", "scan_cases"]
