"""Uses a trained model on whole collections: embeds them for search."""
