"""Read facial expressions in real time, on a robot."""
