"""Where results go: each output takes every frame's result and is finished once."""
