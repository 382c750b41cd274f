"""The loaders: they carry out clip plans and yield batches of tensors."""
