"""Other people's clients against two KMs: PyKMIP and etsi-qkd-014-client, across fronts.

Reads the network as JSON from standard input; prints one line for each thing shown, and exits
with an error at the first that does not hold.
"""

import json
import subprocess
import sys
from base64 import b64decode

from etsi_qkd_014_client import QKD014Client
from kmip.core import enums
from kmip.core.factories.attributes import AttributeFactory
from kmip.core.objects import TemplateAttribute
from kmip.pie.client import ProxyKmipClient

NET = json.load(sys.stdin)
ATTRIBUTE = AttributeFactory().create_attribute


def kmip(end, version=enums.KMIPVersion.KMIP_1_4):
    """A PyKMIP client of the application at one end."""
    files = NET["files"][end]
    host, port = NET["kmip"][end].split(":")
    return ProxyKmipClient(
        hostname=host,
        port=int(port),
        cert=files["certificate"],
        key=files["key"],
        ca=files["ca"],
        ssl_version="PROTOCOL_TLSv1_2",
        kmip_version=version,
    )


def etsi(end):
    """An etsi-qkd-014-client of the application at one end."""
    files = NET["files"][end]
    return QKD014Client(NET["etsi014"][end], files["certificate"], files["key"], files["ca"])


def curl(end, path):
    """One GET with curl; the JSON it got."""
    files = NET["files"][end]
    command = ["curl", "--silent", "--show-error", "--fail"]
    command += ["--cert", files["certificate"], "--key", files["key"], "--cacert", files["ca"]]
    command += [f"https://{NET['etsi014'][end]}{path}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def group(peer):
    return ATTRIBUTE(enums.AttributeType.OBJECT_GROUP, f"qkd/{peer}")


def kmip_create(client, peer, bits=256):
    """A fresh key of the pool shared with `peer`, through KMIP Create."""
    mask = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]
    wanted = [
        ATTRIBUTE(enums.AttributeType.CRYPTOGRAPHIC_ALGORITHM, enums.CryptographicAlgorithm.AES),
        ATTRIBUTE(enums.AttributeType.CRYPTOGRAPHIC_LENGTH, bits),
        ATTRIBUTE(enums.AttributeType.CRYPTOGRAPHIC_USAGE_MASK, mask),
        group(peer),
    ]
    answer = client.proxy.create(
        enums.ObjectType.SYMMETRIC_KEY, TemplateAttribute(attributes=wanted)
    )
    assert answer.result_status.value == enums.ResultStatus.SUCCESS, answer.result_message
    return answer.uuid


def kmip_locate_fresh(client, peer):
    """A fresh key of the pool shared with `peer`, through KMIP Locate."""
    answer = client.proxy.locate(
        maximum_items=1,
        object_group_member=enums.ObjectGroupMember.GROUP_MEMBER_FRESH,
        attributes=[group(peer)],
    )
    assert answer.result_status.value == enums.ResultStatus.SUCCESS, answer.result_message
    (uid,) = answer.uuids
    return uid


def etsi_issue(client, slave, **wanted):
    status, data = client.get_key(slave, **wanted)
    assert status == 200, vars(data)
    return [(key.key_id, b64decode(key.key)) for key in data.keys]


def etsi_collect(client, master, ids):
    status, data = client.get_key_with_key_IDs(master, ids)
    assert status == 200, vars(data)
    return [(key.key_id, b64decode(key.key)) for key in data.keys]


def through_kmip():
    versions = [v for v in enums.KMIPVersion if v != enums.KMIPVersion.KMIP_2_0]
    for version in versions:
        with kmip("north", version) as north, kmip("south", version) as south:
            uid = kmip_create(north, "south")
            assert north.get(uid).value == south.get(uid).value, version
            assert north.get(uid).value == south.get(uid).value, "Get may be repeated"
    print("PyKMIP: created at north, got at south, equal, versions", [v.name for v in versions])
    with kmip("north") as north, kmip("south") as south:
        uid = kmip_locate_fresh(north, "south")
        other = kmip_locate_fresh(north, "south")
        assert uid != other, "Locate of fresh members gave the same key twice"
        assert north.get(uid).value == south.get(uid).value
    with kmip("south") as south, kmip("north") as north:
        uid = kmip_create(south, "north", bits=128)
        assert len(north.get(uid).value) == 16
        assert north.get(uid).value == south.get(uid).value
    print("PyKMIP: located fresh at north, got at south; created at south, got at north")


def through_etsi014():
    north, south = etsi("north"), etsi("south")
    status, level = north.get_status("sae-s1")
    assert status == 200 and level.stored_key_count <= level.max_key_count, vars(level)
    issued = etsi_issue(north, "sae-s1", number=3, size=512)
    assert [len(key) for _, key in issued] == [64] * 3
    assert etsi_collect(south, "sae-n1", [uid for uid, _ in issued]) == issued
    status, _ = south.get_key_with_key_IDs("sae-n1", [issued[0][0]])
    assert status == 400, "a key was delivered twice"
    print("etsi-qkd-014-client: three 512-bit keys equal at both ends, none twice")
    answer = curl("north", "/api/v1/keys/sae-s1/enc_keys?number=1&size=256")
    (key,) = answer["keys"]
    again = curl("south", f"/api/v1/keys/sae-n1/dec_keys?key_ID={key['key_ID']}")
    assert again["keys"] == [key]
    print("curl: issued at north, collected at south, equal")


def across_fronts():
    with kmip("north") as north, kmip("south") as south:
        ((uid, key),) = etsi_issue(etsi("north"), "sae-s1", number=1)
        assert south.get(uid).value == key
        status, _ = etsi("south").get_key_with_key_IDs("sae-n1", [uid])
        assert status == 400, "collected over KMIP, then again over ETSI 014"
        uid = kmip_create(north, "south")
        ((_, key),) = etsi_collect(etsi("south"), "sae-n1", [uid])
        assert north.get(uid).value == key
        try:
            south.get(uid)
        except Exception as refused:  # PyKMIP's own error class carries the reason
            assert "ITEM_NOT_FOUND" in str(refused), refused
        else:
            raise AssertionError("collected over ETSI 014, then again over KMIP")
    answer = curl("north", "/api/v1/keys/sae-s1/enc_keys")
    (key,) = answer["keys"]
    with kmip("south") as south:
        assert south.get(key["key_ID"]).value == b64decode(key["key"])
    print("across fronts: ETSI 014 to KMIP, KMIP to ETSI 014, curl to KMIP; none twice")


through_kmip()
through_etsi014()
across_fronts()
