"""How images become shards."""
