"""An RTSP server with GStreamer, for a test: run by a Python that has gi. Prints its port, then serves until killed.

The picture is grey and tells the time: its brightness is the monotonic clock in tenths of a second, modulo 16.
"""

import sys
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer

LAUNCH = (
    "( videotestsrc is-live=true pattern=black ! video/x-raw,width=320,height=240,framerate=25/1 ! "
    "videobalance name=clock ! "
    "x264enc tune=zerolatency key-int-max=10 speed-preset=ultrafast ! rtph264pay name=pay0 pt=96 config-interval=1 )"
)


def configure(factory, media):
    clock = media.get_element().get_by_name("clock")

    def tell():
        clock.set_property("brightness", int(time.monotonic() * 10) % 16 * 13 / 255)
        return True

    tell()
    GLib.timeout_add(10, tell)


Gst.init(None)
server = GstRtspServer.RTSPServer.new()
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory.new()
factory.set_launch(LAUNCH)
factory.set_shared(True)
factory.connect("media-configure", configure)
server.get_mount_points().add_factory("/cam", factory)
if len(sys.argv) > 2:
    user, password = sys.argv[2].split(":")
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("user", "media.factory.access", True)
    permissions.add_permission_for_role("user", "media.factory.construct", True)
    factory.set_permissions(permissions)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
