"""Plain torch and numpy: points, connected components, the sliding window, batching. Knows no framework."""
