"""The policy: any transformers causal language model, its sampler, value head and reference."""

from alignzoo.policy.devices import find_device
from alignzoo.policy.generation import Generation
from alignzoo.policy.policy import Policy, PolicyOutput

__all__ = ["Generation", "Policy", "PolicyOutput", "find_device"]
