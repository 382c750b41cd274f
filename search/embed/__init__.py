"""Embeds the files of a data set, or of a folder of videos, with the encoders of a run."""
