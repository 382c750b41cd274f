"""Records of a run while it trains: metrics, progress, profiles."""
