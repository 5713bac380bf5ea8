"""ros2 launch edge_ros2 faces.launch.py [source:=/dev/video0] [image:=/camera/image_raw]."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node


def generate_launch_description() -> LaunchDescription:
    """One node; with a source it reads that, else the topic of pictures."""
    parameters = Path(get_package_share_directory("edge_ros2")) / "config" / "faces.yaml"
    return LaunchDescription(
        [
            DeclareLaunchArgument("source", default_value=""),
            DeclareLaunchArgument("image", default_value="/camera/image_raw"),
            Node(
                package="edge_ros2",
                executable="faces",
                parameters=[str(parameters), {"source": LaunchConfiguration("source")}],
                remappings=[("image", LaunchConfiguration("image"))],
                respawn=True,
                respawn_delay=2.0,
                output="screen",
            ),
        ]
    )
