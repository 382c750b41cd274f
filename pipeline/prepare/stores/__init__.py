"""SRC and OUT in object stores: files are copied here to be decoded, and shards are copied there once they are full."""
