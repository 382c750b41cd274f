"""From plans to tensors."""
