"""Configuration: every key with its default, YAML, validation, loading."""
