"""The other processes of a run: waiting until all have started, and noticing when one stops."""
