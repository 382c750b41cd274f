"""Lists of files that users bring: which form a list has, and which file each of its rows names."""
