"""What encoders know: protocols over the query encoders of a checkpoint."""
