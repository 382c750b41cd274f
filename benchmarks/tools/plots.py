"""The charts of the benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def plot_times(records: list[dict[str, Any]], path: Path) -> None:
    """Seconds of each backend on a logarithmic axis, fastest at the bottom; one panel per kind and size of pool."""
    panels: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for record in records:
        panels.setdefault((record["kind"], record["rows"], record["picks"]), []).append(record)
    figure, axes = plt.subplots(len(panels), 1, squeeze=False, figsize=(8, 1 + 0.35 * len(records) + 0.6 * len(panels)))
    for axis, ((kind, rows, picks), bars) in zip(axes[:, 0], panels.items(), strict=True):
        bars = sorted(bars, key=lambda record: record["seconds"])
        drawn = axis.barh([bar["backend"] for bar in bars], [bar["seconds"] for bar in bars])
        axis.bar_label(drawn, [f"{bar['seconds']:.3g} s" for bar in bars], padding=3)
        axis.set(xscale="log", title=f"{kind}, {picks:,} from {rows:,}", xlabel="seconds")
        axis.margins(x=0.2)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_loaders(records: list[dict[str, Any]], path: Path) -> None:
    """Clips/s of each loader on each storage, fastest at the top; our loader in another colour."""
    bars = sorted((r for r in records if "failed" not in r), key=lambda record: record["clips_per_second"])
    figure, axis = plt.subplots(figsize=(8, 1 + 0.3 * len(bars)))
    colors = ["tab:orange" if bar["loader"] in ("ours", "ours_nvdec") else "tab:blue" for bar in bars]
    names = [f"{bar['loader']}, {bar['storage']}" for bar in bars]
    drawn = axis.barh(names, [bar["clips_per_second"] for bar in bars], color=colors)
    axis.bar_label(drawn, [f"{bar['clips_per_second']:.0f}" for bar in bars], padding=3)
    axis.set(xlabel="clips/s")
    axis.margins(x=0.1)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_curves(records: list[dict[str, Any]], path: Path) -> None:
    """Clips/s over each setting, with one panel per setting and one line per codec."""
    panels: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for record in records:
        panels.setdefault(record["curve"], {}).setdefault(record["codec"], []).append(record)
    figure, axes = plt.subplots(1, len(panels), sharey=True, figsize=(3.2 * len(panels), 3.2))
    for axis, (field, lines) in zip(axes, panels.items(), strict=True):
        for codec, line in lines.items():
            values = [record["value"] for record in line]
            axis.plot(values, [record["clips_per_second"] for record in line], "o-", label=codec)
            axis.set_xscale("log", base=2)
            axis.set_xticks(values, [str(value) for value in values])
            axis.minorticks_off()
        axis.set(xlabel=field.replace("_", " "))
    # A logarithmic axis, because the clip's length changes throughput more than all other settings.
    axes[0].set_yscale("log", base=2)
    axes[0].set(ylabel="clips/s")
    axes[0].yaxis.set_major_formatter("{x:.0f}")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
