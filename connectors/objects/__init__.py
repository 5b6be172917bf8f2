"""The object store: pixels and other large bytes, named by their content; the stream carries references (claim check)."""

from connectors.objects.settings import ObjectSettings
from connectors.objects.store import ObjectStore

__all__ = ["ObjectSettings", "ObjectStore"]
