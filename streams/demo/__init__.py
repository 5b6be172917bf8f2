"""`vigil demo`: a synthetic ward, its feed, its stage and its accounts. `run` puts them together."""
