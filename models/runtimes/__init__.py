"""Runtimes: what turns a verified folder of files into an object that fills in a protocol of `models.tasks`."""
