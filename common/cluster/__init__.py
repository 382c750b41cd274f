"""Runs the tasks of a command on the nodes of a Ray cluster, if the command is told to."""
