"""The demo: the whole loop on a rendered video, or on footage of the user's own, measured against ground truth."""
