"""Worker processes that a file may crash, hang or exhaust, and the pool that replaces them."""
