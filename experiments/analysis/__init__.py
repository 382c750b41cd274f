"""From the recorded figures of trials to estimates, comparisons and claims."""
