"""Published lists: train and test parts, and classes."""
