"""Frames and prompts in, objects on every frame out. Imports neither fiftyone nor requests."""
