"""The results of `bench/gpu.py` as Markdown tables."""

from __future__ import annotations

from typing import Any

from kernel_speed.report import interval, number, time, verdict

Row = dict[str, Any]


def tables(results: Row) -> str:
    """Everything that was measured, and what was not."""
    parts = [_machine(results), _tests(results), _kernels(results), _peers(results)]
    parts += [_round(results), _missing(results)]
    return "\n\n".join(part for part in parts if part)


def agreements(results: Row) -> str:
    """What a trial showed: which cases ran, and how far results are from the peers'."""
    lines = []
    for row in results.get("kernels", []):
        shown = row.get("difference_from_truth")
        lines.append(f"{row['name']}: ran" + (f", {_shown(shown)} from the truth" if shown else ""))
    for row in results.get("peers", []):
        said = row.get("absent") or f"{_shown(row['difference'])} from ours"
        lines.append(f"{row['name']} beside {row['peer']}: {said}")
    if "round" in results:
        sides = ", ".join(results["round"]["rounds"])
        lines.append(f"a round of {sides}: ran")
    return "\n".join(filter(None, [*lines, _missing(results)]))


def _shown(differences: list[float | None]) -> str:
    return " ".join("-" if x is None else number(x) for x in differences)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _machine(results: Row) -> str:
    facts, limits = results.get("machine", {}), results.get("ceilings", {})
    lines = [f"**{facts.get('device', 'no device')}**, torch {facts.get('torch', '?')}"]
    if limits:
        copy = limits["copy_bytes_per_second"] / 1e12
        products = limits["bfloat16_flops"] / 1e12
        lines.append(
            f"A copy reads and writes {number(copy)} TB/s together; bfloat16 products reach "
            f"{number(products)} TFLOP/s."
        )
    return "\n".join(lines)


def _tests(results: Row) -> str:
    tests = results.get("tests")
    if not tests:
        return ""
    counts = ", ".join(f"{tests[key]} {key}" for key in ("passed", "failed", "errors", "skipped"))
    return f"Tests of the GPU: {counts}."


def floor_us(row: Row, ceilings: Row) -> float:
    """Microseconds that compulsory bytes, or operations, take at the ceilings measured here."""
    by_bytes = row["bytes"] / ceilings["copy_bytes_per_second"]
    by_products = row.get("flops", 0.0) / ceilings["bfloat16_flops"]
    return 1e6 * max(by_bytes, by_products)


def gap(row: Row) -> tuple[str, str, bool | None]:
    """The aim in words, how far the time is from it, and whether it is met."""
    if row.get("aim_over_products") is not None:
        over = row["over_products"]["median"]
        aim = row["aim_over_products"]
        return f"{aim:g} x its products", f"{number(over)} x", over <= aim
    if row.get("aim_us") is not None:
        over = row["us"]["median"] / row["aim_us"] - 1
        return time(row["aim_us"]), f"{100 * over:+.0f} %", over <= 0
    return "", "", None


def _kernels(results: Row) -> str:
    rows, limits = [], results.get("ceilings")
    for row in results.get("kernels", []):
        if "us" not in row:
            continue
        aim, distance, met = gap(row)
        if not results.get("aims_apply", True):
            distance, met = "", None
        floor = time(floor_us(row, limits)) if limits else ""
        noise = max(abs(row["noise"][key] - 1) for key in ("low", "high"))
        rows.append(
            [
                row["kernel"],
                row["workload"],
                time(row["us"]["median"]),
                floor,
                interval(row["share_of_copy"]),
                f"{100 * noise:.1f} %",
                aim,
                distance,
                verdict(met),
            ]
        )
    if not rows:
        return ""
    header = ["kernel", "workload", "time", "floor", "share of a copy's bandwidth", "noise"]
    header += ["aim (H200)", "gap", ""]
    return _table(header, rows)


def _peers(results: Row) -> str:
    rows = []
    for row in results.get("peers", []):
        found = [row["kernel"], row["workload"], row["peer"]]
        if "absent" in row:
            rows.append([*found, "", "", row["absent"]])
        elif "median" in row:
            rows.append([*found, time(row["ours_us"]), time(row["other_us"]), interval(row)])
    if not rows:
        return ""
    return _table(["kernel", "workload", "peer", "ours", "peer's", "times as fast"], rows)


def _round(results: Row) -> str:
    found = results.get("round")
    if not found:
        return ""
    lines = [[part, *map(str, values)] for part, values in found["table"].items()]
    title = f"**A round: {found['title']}**"
    return title + "\n\n" + _table(["part", "alignzoo, s", "TRL, s", "TRL over alignzoo"], lines)


def _missing(results: Row) -> str:
    lines = []
    if results.get("left_out"):
        lines.append(f"Left out for want of time: {'; '.join(results['left_out'])}.")
    for error in results.get("errors", []):
        lines.append(f"ERROR in {error['part']}: {error['error']}")
    return "\n".join(lines)
