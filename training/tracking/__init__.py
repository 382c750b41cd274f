"""What a run writes down while it trains: metrics, progress, traces."""
