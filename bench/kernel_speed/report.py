"""The results as Markdown tables and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Row = dict[str, Any]


def tables(results: dict[str, Any]) -> str:
    """Every table of one run, in Markdown."""
    parts = [_aims(results), _peers(results), _bandwidth(results)]
    parts += [_tokens(results), _vocabularies(results), _overhead(results)]
    parts += [_decoding(results), _memory(results), _mismatch(results)]
    return "\n\n".join(part for part in parts if part)


def _table(title: str, header: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = [
        f"**{title}**",
        "",
        "| " + " | ".join(header) + " |",
        "|---" * len(header) + "|",
    ]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def number(value: float) -> str:
    """Three digits, with thousands separated."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.1e}"


def time(microseconds: float) -> str:
    if microseconds >= 1e6:
        return f"{number(microseconds / 1e6)} s"
    if microseconds >= 1e3:
        return f"{number(microseconds / 1e3)} ms"
    return f"{number(microseconds)} us"


def interval(found: Row) -> str:
    return f"{number(found['median'])} ({number(found['low'])} to {number(found['high'])})"


def verdict(met: bool | None) -> str:
    return {True: "met", False: "missed", None: ""}[met]


def aims(results: dict[str, Any]) -> list[Row]:
    """Every aim of this run beside what was measured."""
    found: list[Row] = []
    for row in results.get("peers", []):
        if row.get("aim") is not None and "median" in row:
            what = f"{row['kernel']}, {row['workload']}, over {row['peer']}"
            met = row["median"] >= row["aim"]
            found.append(
                {
                    "what": what,
                    "aim": f">= {row['aim']:g}x",
                    "got": interval(row),
                    "met": met,
                }
            )
    for row in results.get("bandwidth", []):
        if row.get("aim") is not None:
            what = f"{row['kernel']}, {row['workload']}, share of {row['kind']} bandwidth"
            met = row["median"] >= row["aim"]
            found.append(
                {
                    "what": what,
                    "aim": f">= {row['aim']}",
                    "got": interval(row),
                    "met": met,
                }
            )
    for row in results.get("overhead", []):
        if row["aim"] is not None:
            aim, got = f"<= {row['aim']:g} us", f"{interval(row)} us"
            found.append({"what": row["call"], "aim": aim, "got": got, "met": row["met"]})
    for row in results.get("decoding", []):
        if row["aim"] is not None:
            what = f"{row['draw']}, 32 rows of 32000, share of the decode step"
            got = interval(row["share_of_step"])
            found.append({"what": what, "aim": f"<= {row['aim']}", "got": got, "met": row["met"]})
    for section in ("tokens", "vocabularies"):
        for row in results.get(section, []):
            what = f"{row['kernel']}, {row['shape']}: slowest size over the largest"
            got = number(row["worst_over_largest"])
            found.append({"what": what, "aim": "<= 2", "got": got, "met": row["met"]})
    return found


def _aims(results: dict[str, Any]) -> str:
    rows = [[a["what"], a["aim"], a["got"], verdict(a["met"])] for a in aims(results)]
    return _table("Aims", ["what", "aim", "measured", ""], rows)


def _peers(results: dict[str, Any]) -> str:
    rows = []
    for row in results.get("peers", []):
        if "absent" in row:
            rows.append([row["kernel"], row["workload"], row["peer"], "", "", row["absent"]])
        else:
            ours, other = time(row["ours_us"]), time(row["other_us"])
            rows.append(
                [
                    row["kernel"],
                    row["workload"],
                    row["peer"],
                    ours,
                    other,
                    interval(row),
                ]
            )
    header = ["kernel", "workload", "peer", "ours", "peer's", "times as fast"]
    return _table("Beside other libraries", header, rows)


def _bandwidth(results: dict[str, Any]) -> str:
    rows = [
        [
            row["kernel"],
            row["workload"],
            number(row["gb_per_second"]),
            row["kind"],
            interval(row),
        ]
        for row in results.get("bandwidth", [])
    ]
    header = ["kernel", "workload", "GB/s", "beside a", "share of its bandwidth"]
    return _table("Compulsory bytes over time", header, rows)


def _sizes(title: str, results: dict[str, Any], section: str, sizes: str) -> str:
    rows = [
        [row["kernel"], row["shape"], *map(number, row["nanoseconds"])]
        for row in results.get(section, [])
    ]
    header = [number(size) for size in results.get(sizes, [])]
    width = len(rows[0]) - 2 if rows else 0
    return _table(title, ["kernel", "shape", *header[:width]], rows)


def _tokens(results: dict[str, Any]) -> str:
    return _sizes("Nanoseconds a token, by tokens", results, "tokens", "token_sizes")


def _vocabularies(results: dict[str, Any]) -> str:
    title = "Nanoseconds a logit, by vocabulary"
    return _sizes(title, results, "vocabularies", "vocabulary_sizes")


def _overhead(results: dict[str, Any]) -> str:
    rows = [[row["call"], interval(row)] for row in results.get("overhead", [])]
    return _table("Cost of a call", ["call", "microseconds"], rows)


def _decoding(results: dict[str, Any]) -> str:
    rows = [
        [row["draw"], time(row["draw_us"]), interval(row["share_of_step"])]
        for row in results.get("decoding", [])
    ]
    return _table("Drawing beside a decode step", ["draw", "time", "share of the step"], rows)


def _memory(results: dict[str, Any]) -> str:
    rows = []
    for row in results.get("memory", []):
        sizes = f"{row['rows']} x {row['vocabulary']}, width {row['width']}"
        if "absent" in row:
            rows.append([row["side"], sizes, row["absent"], "", ""])
        else:
            chunk = number(row["chunk_mb"]) if "chunk_mb" in row else ""
            found = [number(row["peak_extra_mb"]), chunk, number(row["logits_mb"])]
            rows.append([row["side"], sizes, *found])
    header = ["side", "rows x vocabulary", "peak beyond inputs and gradients, MiB"]
    header += ["one chunk, MiB", "all logits, MiB"]
    return _table("Memory of log-probs and gradients from hidden states", header, rows)


def _mismatch(results: dict[str, Any]) -> str:
    rows = []
    for row in results.get("mismatch", []):
        if "absent" in row:
            rows.append([row["model"], row["dtype"], row["absent"], *[""] * 4])
            continue
        ratios = [row[key]["max_distance_from_1"] for key in row if key.startswith("ratio_")]
        found = [row["max_difference"], row["mean_difference"], *ratios]
        rows.append([row["model"], row["dtype"], str(row["tokens"]), *map(number, found)])
    header = ["model", "type", "tokens", "largest difference, nats", "mean difference"]
    header += [f"largest \\|ratio - 1\\|, {old}" for old in OLD]
    return _table("The sampler's log-probs beside a full forward's", header, rows)


OLD = ("old = sampler's", "old = scored again", "the same, in minibatches of 8")


def plot(results: dict[str, Any], path: Path) -> None:
    """Draws how many times as fast as each peer, and the shares of bandwidth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.fonttype"] = "none"
    pyplot.rcParams["svg.hashsalt"] = "alignzoo"
    rows = [row for row in results.get("peers", []) if "median" in row][::-1]
    shares = results.get("bandwidth", [])[::-1]
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(15, 1.5 + 0.24 * len(rows)), width_ratios=[3, 1]
    )
    colours = {"torch": "#888888", "torch.compile": "#bbbbbb"}
    for y, row in enumerate(rows):
        left.barh(y, row["median"], color=colours.get(row["peer"], "#3b6ea5"))
        left.plot([row["low"], row["high"]], [y, y], color="black", linewidth=1)
        end = max(row["median"], row["high"])
        left.text(end * 1.08, y, number(row["median"]), va="center", fontsize=7)
    left.set_yticks(
        range(len(rows)),
        [f"{row['kernel']}, {row['workload']} / {row['peer']}" for row in rows],
        fontsize=7,
    )
    left.set_xscale("log")
    left.margins(y=0.01)
    left.axvline(1, color="black", linewidth=0.8)
    left.set_xlabel("times as fast as the peer, median of pairs, 95 % interval")
    for y, row in enumerate(shares):
        right.barh(y, row["median"], color="#4a8f5c")
        right.text(row["median"] + 0.01, y, number(row["median"]), va="center", fontsize=7)
    right.set_yticks(range(len(shares)), [row["kernel"] for row in shares], fontsize=7)
    right.axvline(1, color="black", linewidth=0.8)
    right.set_xlabel("share of copy or read bandwidth")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
