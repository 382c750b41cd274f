"""The reference loader: reads raw videos with decord and PyAV; written for clarity, not for speed."""
