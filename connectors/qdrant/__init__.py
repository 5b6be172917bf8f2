"""Vectors out: Qdrant, a server or cluster on a site and one small embedded process in the demo, behind the same client.

`store.VectorStore` is what lanes and readers use, `search` what asks, `embedded.EmbeddedQdrant` the embedded one.
"""
