"""A local web page that searches an index and plays what it finds."""
