"""Shows the clips that training receives."""
