"""How colcon installs the package."""

from setuptools import setup

setup(
    name="edge_ros2",
    version="0.1.0",
    packages=["edge_ros2"],
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/edge_ros2"]),
        ("share/edge_ros2", ["package.xml"]),
        ("share/edge_ros2/launch", ["launch/faces.launch.py"]),
        ("share/edge_ros2/config", ["config/faces.yaml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="edge-emotion",
    maintainer_email="maintainers@edge-emotion.invalid",
    description="Facial expressions, read on the robot, as ROS4HRI (REP-155) topics.",
    license="Apache-2.0",
    entry_points={"console_scripts": ["faces = edge_ros2.node:main"]},
)
