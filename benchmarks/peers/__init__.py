"""Alternatives to our loader and samplers, made to do the same work: same videos, clips, crops, colours and log-mel."""
