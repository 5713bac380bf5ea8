"""A DDS participant of its own, with types written anew: it tells on standard output what it hears.

python dds_peer.py DOMAIN
"""

import json
import sys
import time
from dataclasses import asdict, dataclass

from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication
from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import int32, sequence, uint32
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic


@dataclass
class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
    sec: int32
    nanosec: uint32


@dataclass
class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
    stamp: Time
    frame_id: str


@dataclass
class IdsList(IdlStruct, typename="hri_msgs::msg::dds_::IdsList_"):
    header: Header
    ids: sequence[str]


def main(domain):
    participant = DomainParticipant(int(domain))
    qos = Qos(Policy.Reliability.Reliable(0), Policy.History.KeepLast(1000))
    reader = DataReader(participant, Topic(participant, "rt/humans/faces/tracked", IdsList), qos=qos)
    endpoints = BuiltinDataReader(participant, BuiltinTopicDcpsPublication)
    print(json.dumps({"ready": True}), flush=True)
    while True:
        for one in endpoints.take(N=100):
            if one.topic_name:
                told = {"topic": one.topic_name, "type": one.type_name}
                userdata = bytes(one.qos[Policy.Userdata].data) if Policy.Userdata in one.qos else b""
                print(json.dumps({**told, "userdata": userdata.decode("ascii", "replace")}), flush=True)
        for one in reader.take(N=100):
            if isinstance(one, IdsList):
                print(json.dumps(asdict(one)), flush=True)
        time.sleep(0.01)


if __name__ == "__main__":
    main(sys.argv[1])
