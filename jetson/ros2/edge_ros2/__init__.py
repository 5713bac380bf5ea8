"""Facial expressions as ROS4HRI topics, in a node of rclpy."""
