"""The corpora that the experiments train on."""
