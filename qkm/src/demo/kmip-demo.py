#!/usr/bin/env python3
"""A QKD key through KMIP: created at north, collected at south by its identifier.

Needs PyKMIP 0.11.0:  python3 -m venv venv && venv/bin/pip install pykmip==0.11.0
"""

from kmip.core import enums
from kmip.core.factories.attributes import AttributeFactory
from kmip.core.objects import TemplateAttribute
from kmip.pie.client import ProxyKmipClient

NORTH = "@NORTH@"
SOUTH = "@SOUTH@"


def connect(end):
    host, port, certificate, key, ca = end
    return ProxyKmipClient(
        hostname=host,
        port=port,
        cert=certificate,
        key=key,
        ca=ca,
        ssl_version="PROTOCOL_TLSv1_2",
        kmip_version=enums.KMIPVersion.KMIP_1_4,
    )


def create_qkd_key(client, peer):
    """Create with Object Group qkd/<peer> takes a fresh key out of the pool shared with it."""
    make = AttributeFactory().create_attribute
    wanted = [
        make(enums.AttributeType.CRYPTOGRAPHIC_ALGORITHM, enums.CryptographicAlgorithm.AES),
        make(enums.AttributeType.CRYPTOGRAPHIC_LENGTH, 256),
        make(
            enums.AttributeType.CRYPTOGRAPHIC_USAGE_MASK,
            [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT],
        ),
        make(enums.AttributeType.OBJECT_GROUP, "qkd/" + peer),
    ]
    answer = client.proxy.create(
        enums.ObjectType.SYMMETRIC_KEY, TemplateAttribute(attributes=wanted)
    )
    if answer.result_status.value != enums.ResultStatus.SUCCESS:
        raise SystemExit("create failed: %s" % answer.result_message.value)
    return answer.uuid


with connect(NORTH) as north, connect(SOUTH) as south:
    key_id = create_qkd_key(north, "south")
    print("north created", key_id)
    here, there = north.get(key_id), south.get(key_id)
    print("equal bytes at both ends:", here.value == there.value, "(%d bits)" % (8 * len(here.value)))
    raise SystemExit(0 if here.value == there.value else 1)
