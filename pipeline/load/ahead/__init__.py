"""Reading ahead: how many batches at the same time, and which shards are copied from an object store before use."""
