"""Alternatives to our loader and samplers that do the same work: the same videos, clips, crops, colours and log-mel."""
