"""The process that has the device: it answers one task a line with one JSON object a line.

It is apart from the command, because a failed kernel leaves a process's device unusable, and one
that never ends can only be ended from outside. A task is {"do": "facts"}, "plans", "ceilings", or
"ours" and "peer" with the names of a plan and a peer.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import random
import statistics
import sys
from functools import cached_property
from typing import Any

import torch
from gpu_parts.clock import (
    Clock,
    Effort,
    ceilings,
    clock_of,
    copy_side,
    first_line,
    interleave,
    microseconds,
    ratio,
)
from gpu_parts.plans import FULL, TINY, Made, Plan, Side, plans
from peers import AbsentError, versions

from alignzoo import kernels

Row = dict[str, Any]
HALVES = {torch.bfloat16, torch.float16}
HALF_TOLERANCE = 1e-2  # where either side's results are of these types


class DifferenceError(Exception):
    """Two sides of one plan that do not agree."""


class Bench:
    """Measures plans on one device; keeps the inputs of one plan at a time."""

    def __init__(self, device: torch.device, effort: Effort, *, small: bool) -> None:
        self.device, self.effort, self.small = device, effort, small
        self.plans = {plan.name: plan for plan in plans(TINY if small else FULL)}
        self.name, self.made = "", None

    def answer(self, task: Row) -> Row:
        do = task["do"]
        if do == "facts":
            return facts(self.device)
        if do == "plans":
            return {"plans": [describe(plan) for plan in self.plans.values()]}
        if do == "ceilings":
            return ceilings(self.device, self.effort, small=self.small)
        plan = self.plans[task["plan"]]
        row = self.ours(plan) if do == "ours" else self.peer(plan, task["peer"])
        if self.device.type == "cuda":
            kernels.check_faults()
        return row

    def ours(self, plan: Plan) -> Row:
        """Our time, twice for the noise, beside a copy, and beside the products inside."""
        made = self._made(plan)
        differences = self._compare(plan, made)
        one, two = (clock_of(made.ours, self.device, graph=bool(plan.graph)) for _ in range(2))
        copy, copied = self._copy
        clocks = [one, two, Clock(copy, self.device)]
        if made.products is not None:
            clocks.append(Clock(made.products, self.device))
        times = interleave(clocks, self.effort)
        row: Row = {
            "us": microseconds(times[0]),
            "noise": ratio(times[1], times[0]),
            "share_of_copy": median_share(plan.num_bytes, times[0], copied, times[2]),
            "copy_bytes_per_second": copied / statistics.median(times[2]),
            "timings": len(times[0]),
            "how": one.how,
        }
        if made.products is not None:
            row["products_us"] = microseconds(times[3])
            row["over_products"] = ratio(times[0], times[3])
        if differences:
            row["difference_from_truth"] = differences
        return row

    def peer(self, plan: Plan, label: str) -> Row:
        """Ours and one peer's time in turns, after their results were compared."""
        made = self._made(plan)
        found = made.ours.call(0)
        try:
            side = made.peers[label]()
            if side.before is not None:
                side.before(0)
            theirs = side.call(0)
        except AbsentError as absent:
            return {"absent": str(absent)}
        except Exception as error:  # a peer's own failure is a result, too
            if is_lost(error):
                raise
            return {"absent": f"failed: {first_line(error)}"}
        differences = agreement(plan, found, theirs)
        del found, theirs
        clocks = [clock_of(x, self.device, graph=plan.graph == "all") for x in (made.ours, side)]
        ours, other = interleave(clocks, self.effort)
        return {
            **ratio(other, ours),
            "ours_us": microseconds(ours)["median"],
            "other_us": microseconds(other)["median"],
            "timings": len(ours),
            "how": [clock.how for clock in clocks],
            "difference": differences,
        }

    @cached_property
    def _copy(self) -> tuple[Side, int]:
        return copy_side(1 << 16 if self.small else 512 << 20, self.device)

    def _made(self, plan: Plan) -> Made:
        if self.made is None or self.name != plan.name:
            self.made = None
            if "torch._dynamo" in sys.modules:
                torch.compiler.reset()
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            torch.manual_seed(0)
            random.seed(0)
            self.name, self.made = plan.name, plan.make(self.device)
            if tuple(self.made.peers) != plan.peers:
                raise AssertionError(f"{plan.name}: {tuple(self.made.peers)} are not its peers")
        return self.made

    def _compare(self, plan: Plan, made: Made) -> list[float | None]:
        if made.truth is None:
            return []
        found = made.ours.call(0)
        return agreement(plan, found, made.truth(0, found))


def describe(plan: Plan) -> Row:
    """What results say of a plan, whether it was measured or not."""
    return {
        "name": plan.name,
        "kernel": plan.kernel,
        "workload": plan.workload,
        "bytes": plan.num_bytes,
        "flops": plan.flops,
        "aim_us": None if plan.aim is None else round(1e6 * plan.aim, 3),
        "aim_over_products": plan.aim_over_products,
        "peers": list(plan.peers),
    }


def median_share(
    num_bytes: int, seconds: list[float], copied: int, copy_seconds: list[float]
) -> Row:
    """Compulsory bytes over time, over what a copy reached beside it."""
    found = ratio(copy_seconds, seconds)
    return {key: value * num_bytes / copied for key, value in found.items()}


def agreement(plan: Plan, ours: tuple[Any, ...], other: tuple[Any, ...]) -> list[float | None]:
    """The norm of each difference over the norm; raises where it is over the plan's tolerance."""
    found: list[float | None] = []
    for one, two in zip(ours, other, strict=True):
        if two is None:
            found.append(None)
            continue
        if one.shape != two.shape:
            raise DifferenceError(f"ours is {list(one.shape)}, the other's {list(two.shape)}")
        wide = torch.float64 if one.numel() < 1 << 24 else torch.float32
        scale = torch.linalg.vector_norm(two, dtype=wide) if two.is_floating_point() else None
        if scale is None:
            share = float((one != two).double().mean())
        else:
            share = float(difference_norm(one, two, wide) / scale.clamp(min=1e-30))
        most = max(plan.tolerance, HALF_TOLERANCE if HALVES & {one.dtype, two.dtype} else 0.0)
        if not share <= most:  # NaN, too
            raise DifferenceError(f"results differ by {share:.2g}; {most:g} is the most")
        found.append(float(f"{share:.2g}"))
    return found


def difference_norm(one: Any, two: Any, wide: torch.dtype) -> Any:
    """A piece at a time: whole copies in a wider type would fill the device."""
    pieces = zip(one.reshape(-1).split(1 << 28), two.reshape(-1).split(1 << 28), strict=True)
    norms = [torch.linalg.vector_norm(a.to(wide) - b.to(wide)) for a, b in pieces]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros((), dtype=wide)


def facts(device: torch.device) -> Row:
    """What the numbers depend on."""
    import alignzoo
    from alignzoo import _core

    found: Row = {
        "device": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "alignzoo": alignzoo.__version__,
        "core": _core.build_info(),
        "cuda_built": bool(_core.cuda_built),
        "peers": versions(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["device"] = properties.name
        found["capability"] = f"{properties.major}.{properties.minor}"
        found["multiprocessors"] = properties.multi_processor_count
        found["memory_bytes"] = properties.total_memory
        found["cache_bytes"] = getattr(properties, "L2_cache_size", None)
        found["torch_cuda"] = torch.version.cuda
    return found


def is_lost(error: BaseException) -> bool:
    """Whether the device answers no longer, as after an illegal address."""
    if not torch.cuda.is_available() or isinstance(error, (AbsentError, DifferenceError)):
        return False
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False


def main() -> None:
    options = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    device = torch.device(options["device"])
    effort = Effort(options["rounds"], options["seconds"], options["fewest"])
    bench = Bench(device, effort, small=options["small"])
    for line in sys.stdin:
        try:
            reply = bench.answer(json.loads(line))
        except Exception as error:
            bench.made = None
            reply = {"error": first_line(error)}
            if is_lost(error):
                reply["lost"] = True
        print(json.dumps(reply), file=replies, flush=True)
        if reply.get("lost"):
            os._exit(1)  # nothing of this process's can be put away in order any more


if __name__ == "__main__":
    main()
