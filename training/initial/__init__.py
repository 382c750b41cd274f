"""The weights that a new run starts from (`model.init`)."""
