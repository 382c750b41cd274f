"""The index files of a prepared folder, from which its manifest is made: their form, and how new rows are merged."""
