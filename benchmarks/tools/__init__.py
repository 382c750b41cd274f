"""What the benchmarks share: timing, corpora, results."""
