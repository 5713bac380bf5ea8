"""One adapter a recogniser, and ``run.py``, the process that they run in.

They run in the rivals' own environments: none but ``use_edge.py`` imports anything of this project.
"""
