"""Hooks of the trainer that any training needs: metrics, non-finite steps, stopping, resuming."""
