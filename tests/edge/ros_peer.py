"""A zenoh peer of its own, as a ROS node with rmw_zenoh is one: it tells on standard output what it hears.

python ros_peer.py listen PORT | connect PORT [DOMAIN]
python ros_peer.py router PORT: rmw_zenoh's router, by the same library; it tells that it is ready

A line is JSON: ``key``, ``payload`` and ``attachment`` in hexadecimal, or ``key`` and ``alive`` for a liveliness token.
"""

import json
import sys
import threading
import time

import zenoh


def main(way, port, domain="0"):
    config = zenoh.Config()
    config.insert_json5("mode", '"router"' if way == "router" else '"peer"')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5(f"{'connect' if way == 'connect' else 'listen'}/endpoints", f'["tcp/127.0.0.1:{port}"]')
    if way == "connect":
        config.insert_json5("listen/endpoints", '["tcp/localhost:0"]')

    one_at_a_time = threading.Lock()

    def tell(**told):
        with one_at_a_time:  # each subscriber has a thread of its own
            print(json.dumps(told), flush=True)

    def message(sample):
        payload, attachment = sample.payload.to_bytes().hex(), sample.attachment.to_bytes().hex()
        tell(key=str(sample.key_expr), payload=payload, attachment=attachment)

    def token(sample):
        tell(key=str(sample.key_expr), alive=sample.kind == zenoh.SampleKind.PUT)

    session = zenoh.open(config)
    if way == "router":
        tell(key="ready")
        threading.Event().wait()
    session.declare_subscriber(f"{domain}/humans/**", message)
    session.liveliness().declare_subscriber(f"@ros2_lv/{domain}/**", token, history=True)
    tell(key="ready")
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
