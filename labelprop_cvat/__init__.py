"""Turns a few frames annotated by people in CVAT into a fully labelled video in FiftyOne."""

__version__ = "0.1.0"
