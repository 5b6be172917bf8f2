"""Export of a site's own models: torch -> ONNX -> INT8, measured on the site's data, written only where little is lost."""
