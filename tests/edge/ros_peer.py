"""A zenoh peer of its own, as a ROS node with rmw_zenoh is one: it tells on standard output what it hears.

python ros_peer.py listen PORT | connect PORT [DOMAIN]

A line is JSON: ``key``, ``payload`` and ``attachment`` in hexadecimal, or ``key`` and ``alive`` for a liveliness token.
"""

import json
import sys
import time

import zenoh


def main(way, port, domain="0"):
    config = zenoh.Config()
    config.insert_json5("mode", '"peer"')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5(f"{way}/endpoints", f'["tcp/127.0.0.1:{port}"]')
    if way == "connect":
        config.insert_json5("listen/endpoints", "[]")

    def message(sample):
        told = {"key": str(sample.key_expr), "payload": sample.payload.to_bytes().hex()}
        print(json.dumps({**told, "attachment": sample.attachment.to_bytes().hex()}), flush=True)

    def token(sample):
        print(json.dumps({"key": str(sample.key_expr), "alive": sample.kind == zenoh.SampleKind.PUT}), flush=True)

    session = zenoh.open(config)
    session.declare_subscriber(f"{domain}/humans/**", message)
    session.liveliness().declare_subscriber(f"@ros2_lv/{domain}/**", token, history=True)
    print(json.dumps({"key": "ready"}), flush=True)
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
