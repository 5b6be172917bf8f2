"""Evaluation: figures of a model on a folder of data, by the same code path that serves it."""
