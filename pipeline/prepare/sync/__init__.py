"""What ties a prepared folder to its source folders, and how it follows them."""
