"""Updates the tables in the documents from the results of benchmarks: python -m benchmarks.report results/

In docs/performance.md, docs/first_hour.md and docs/scale.md, the text between `<!-- table NAME -->` and `<!-- end -->`
is replaced by a table made from the result's JSON. A table whose JSON is not in the folder stays unchanged.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.phases import introduce
from common.terminal import command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="folder with the JSON that benchmarks.run_all wrote")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    introduce("benchmarks.report", "updating the tables in the documents", parse)

from benchmarks.tools.corpus import SHARDS
from benchmarks.tools.plots import plot_loaders
from benchmarks.tools.result import ResultError, read
from benchmarks.tools.scale.model import SCALE_TABLES
from common.environment import ROOT
from common.finite import NotFiniteError
from common.markdown import markdown_table

DOCUMENTS = ("docs/performance.md", "docs/first_hour.md", "docs/scale.md")
PLACE = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Result = dict[str, Any]


def sampling(result: Result) -> str:
    labels = {
        "kmeanspp_sequential": "k-means++, one pick at a time",
        "badge": "BADGE's routine",
        "kmeanspp_fp32": "`kmeanspp`, fp32",
        "kmeanspp_bf16": "`kmeanspp`, bf16 products",
        "kmeanspp_faiss_sketch": "`kmeanspp_faiss`, index build included",
    }
    rows = [
        [label, f"{record['seconds']:.3g}", f"{record['times_faster']:.2g}"]
        for name, label in labels.items()
        for record in result["records"]
        if record["backend"] == name
    ]
    return markdown_table(["", "seconds", "times faster"], rows)


def decode(result: Result) -> str:
    rows = []
    for record in result["records"]:
        stored = result["storage"][record["storage"]]
        cells = [record["loader"], record["storage"]]
        if "failed" in record:
            cells += ["failed", "", "", ""]
        else:
            cells += [
                f"{record['clips_per_second']:.0f}",
                f"{record['cpu_ms_per_clip']:.1f}",
                f"{record['kilobytes_read_per_clip']:.0f}",
                f"{record['peak_megabytes']:.0f}",
            ]
        rows.append([*cells, f"{stored['kilobytes_per_second']:.0f}", f"{stored['psnr_db']:.1f}"])
    head = ["loader", "storage", "clips/s", "CPU ms per clip", "kB read per clip", "peak MB", "stored kB/s", "PSNR dB"]
    return markdown_table(head, rows)


def decode_sweep(result: Result) -> str:
    rows = []
    for record in result["records"]:
        stored = result["storage"][record["storage"]]
        rows.append(
            [
                record["curve"].replace("_", " "),
                record["codec"],
                str(record["value"]),
                f"{record['clips_per_second']:.0f}",
                f"{record['cpu_ms_per_clip']:.1f}",
                f"{stored['kilobytes_per_second']:.0f}",
                f"{stored['psnr_db']:.1f}",
            ]
        )
    head = ["changed", "codec", "to", "clips/s", "CPU ms per clip", "stored kB/s", "PSNR dB"]
    return markdown_table(head, rows)


def ratios(result: Result) -> str:
    names = {
        "files_as_people_have_them": "H.264, 256 pixels, GOP 250",
        "same_size_h264": "H.264 at our size and frame rate",
        "same_size_any_storage": "any storage at our size and frame rate",
        "decoding_alone": "the same shards from memory, decoding only",
    }
    kinds = result["comparisons"]
    ours = [storage for storage in SHARDS if all(storage in found["ratio"] for found in kinds.values())]
    rows = [
        [names[kind], found["fastest_peer"], *(f"{found['ratio'][storage]:.2f}" for storage in ours)]
        for kind, found in kinds.items()
    ]
    codecs = [storage.split("_")[1].upper() for storage in ours]
    return markdown_table(["the peer reads", "fastest peer", *(f"ours, {codec}" for codec in codecs)], rows)


def spectrogram(result: Result) -> str:
    rows = [
        [
            record["library"],
            f"{record['windows_per_second']:.0f}",
            f"{record['cpu_ms_per_window']:.2f}",
            f"{record['largest_difference_db']:.4f}",
        ]
        for record in result["records"]
    ]
    return markdown_table(["", "windows/s", "CPU ms per window", "largest difference from torchaudio, dB"], rows)


def step(result: Result) -> str:
    whole = result["parts"]["whole step"]
    rows = [[name, f"{1e3 * value:.1f}", f"{value / whole:.1%}"] for name, value in result["parts"].items()]
    return markdown_table(["part", "ms", "share"], rows)


def efficiency(result: Result) -> str:
    found = result["efficiency"]
    rows = [
        ["fed by the loader", f"{1e3 * found['seconds_fed_by_loader']:.1f} ms"],
        ["fed from memory", f"{1e3 * found['seconds_fed_from_memory']:.1f} ms"],
        ["efficiency (its standard error)", f"{found['efficiency']:.1%} ({found['standard_error']:.1%})"],
        ["waiting for data", f"{found['data_wait']:.1%}"],
    ]
    if "model_flop_utilisation" in result:
        rows.append(["model FLOP utilisation", f"{result['model_flop_utilisation']['share']:.1%}"])
    if "against" in result:
        rows.append([f"against {list(result['against']['seconds'])[1]}", f"{result['against']['ratio']:.3f} times"])
    return markdown_table(["", ""], rows)


def scaling(result: Result) -> str:
    # Which collectives a step calls depends on the device.
    called = {name for record in result["records"] for name in record["bytes_per_step"]}
    collectives = [name for name in COLLECTIVES if name in called]
    rows = [
        [
            str(record["processes"]),
            f"{record['clips_per_second']:.0f}",
            f"{record['efficiency']:.0%}",
            *(f"{record['bytes_per_step'].get(name, 0) / 1e3:.0f}" for name in collectives),
        ]
        for record in result["records"]
    ]
    return markdown_table(["processes", "clips/s", "efficiency", *(f"{name}, kB" for name in collectives)], rows)


def dataset_scaling(result: Result) -> str:
    rows = [
        [
            f"{record['samples']:,}",
            f"{record['shards']:,}",
            f"{record['clips_per_second']:.0f}",
            f"{record['relative_to_first']:.2f}",
            f"{record['start_up_seconds']:.2f}",
            f"{record['megabytes_above_imports']:.0f}",
        ]
        for record in result["records"]
    ]
    head = ["samples", "shards", "clips/s", "relative to the first row", "start-up, s", "MB beyond the imports"]
    return markdown_table(head, rows)


def checksums(result: Result) -> str:
    rows = [
        [
            label,
            f"{result[name]['not_compared']:.2f}",
            f"{result[name]['compared']:.2f}",
            f"{result[name]['ratio']:.3f} ± {result[name]['standard_error']:.3f}",
        ]
        for label, name in (("CPU-ms per clip", "cpu_ms_per_clip"), ("ms per clip", "ms_per_clip"))
    ]
    return markdown_table(["", "not compared", "compared", "ratio"], rows)


def embed(result: Result) -> str:
    names = {"loader": "the loader alone", "embed": "`search.embed` with encoders that cost nothing"}
    rows = [[label, f"{result['clips_per_second'][name]:.0f}"] for name, label in names.items()]
    rows.append(["ratio", f"{result['ratio']:.3f} ± {result['standard_error']:.3f}"])
    return markdown_table(["", "clips/s"], rows)


def first_hour(result: Result) -> str:
    rows = []
    for record in result["records"]:
        left = [
            f"`{group['path']}` ({megabytes(group['megabytes'])}"
            + (f", {group['files']} files)" if group["path"].endswith("/") else ")")
            for group in record["leaves"]
        ]
        figures = ("first_word_seconds", "first_word_cpu_seconds", "seconds", "cpu_seconds", "longest_silence_seconds")
        rows.append(
            [
                f"`./cmacc {record['command']}`",
                *(f"{record[name]:.3g}" for name in figures),
                "<br>".join(left) or "nothing",
            ]
        )
    head = ["command", "first word, s", "of that CPU-s", "end, s", "CPU-s", "longest silence, s", "leaves"]
    return markdown_table(head, rows)


def megabytes(size: float) -> str:
    return f"{size:.1f} MB" if size >= 0.1 else f"{1e3 * size:.0f} kB"


def search(result: Result) -> str:
    kinds = {"exact": "every vector", "ivfpq": "IVF-PQ"}
    rows = [
        [
            kinds[record["kind"]],
            record["by"],
            f"{record['ms_per_query']:.2f}",
            f"{record['recall']:.3f}",
            f"{record['opening_ms']:.1f}" if "opening_ms" in record else "",
            f"{record['build_seconds']:.0f}" if "build_seconds" in record else "",
        ]
        for record in result["records"]
    ]
    return markdown_table(["compared", "by", "ms per query", "recall at 10", "opening, ms", "build, s"], rows)


COLLECTIVES = (
    "all-gather of queries, keys and hidden",
    "all-gather of BatchNorm statistics",
    "all-reduce of BatchNorm statistics",
    "all-reduce of gradients",
)
TABLES: dict[str, tuple[str, Callable[[Result], str]]] = {
    "sampling": ("sampling_38400x3840", sampling),
    "decode": ("decode", decode),
    "decode_ratios": ("decode", ratios),
    "decode_gpu": ("decode_gpu", decode),
    "decode_gpu_ratios": ("decode_gpu", ratios),
    "decode_gpu_nvdec": ("decode_gpu_nvdec", decode),
    "decode_sweep": ("decode_sweep", decode_sweep),
    "spectrogram": ("spectrogram", spectrogram),
    "step": ("step", step),
    "efficiency": ("step", efficiency),
    "step_gpu": ("step_gpu", step),
    "efficiency_gpu": ("step_gpu", efficiency),
    "checksums": ("checksums", checksums),
    "dataset_scaling": ("dataset_scaling", dataset_scaling),
    "scaling": ("scaling", scaling),
    "embed": ("embed", embed),
    "first_hour": ("first_hour", first_hour),
    "search": ("search", search),
    **SCALE_TABLES,
}
"""Name of the table -> (name of the result, function that makes the table)."""


def fill(text: str, folder: Path) -> str:
    """`text` with new tables for all results in `folder`.

    Raises:
        SystemExit: the text names an unknown table.
        ResultError: a result cannot be read, or does not hold the figures of the table.
        NotFiniteError: a figure is not finite.
    """

    def replaced(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name not in TABLES:
            raise SystemExit(f"unknown table {name!r}; known tables: {', '.join(TABLES)}")
        source, make = TABLES[name]
        path = folder / f"{source}.json"
        if not path.exists():
            return match.group(0)
        result = read(path)
        try:
            return begin + make(result) + end
        except (KeyError, TypeError, IndexError, AttributeError, ValueError, ZeroDivisionError) as error:
            raise ResultError(f"{path} does not hold what the table {name} shows: {error!r}") from error

    return PLACE.sub(replaced, text)


@command("benchmarks.report", NotFiniteError, ResultError)
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if not any((options.results / f"{source}.json").exists() for source, _ in TABLES.values()):
        raise ResultError(f"{options.results} holds no result (NAME.json of benchmarks.run_all)")
    filled = {ROOT / name: fill((ROOT / name).read_text(), options.results) for name in DOCUMENTS}
    for path, text in filled.items():
        path.write_text(text)
    decoded = options.results / "decode.json"
    if decoded.exists():
        plot_loaders(read(decoded)["records"], options.results / "decode.png")


if __name__ == "__main__":
    sys.exit(main())
