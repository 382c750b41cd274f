"""Tools that the benchmarks share: timing, corpora, results, charts."""
