"""Every kind of source, one a file; :func:`edge.camera.open_source` chooses among them."""
