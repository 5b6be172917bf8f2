"""The same jobs as Faust's own guide and Quix Streams' own guide teach them, for comparison. Settings come by the environment."""
