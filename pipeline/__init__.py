"""The data pipeline: prepares video files as shards and loads batches from them."""
