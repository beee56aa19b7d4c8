"""Runs PyKMIP's client through the life of every kind of object, in one version.

Arguments: host, port, certificate, key, CA, version such as 1.4. Prints "done <version>".
"""
import sys

from kmip.core import enums
from kmip.core.factories.attributes import AttributeFactory
from kmip.pie import exceptions, objects
from kmip.pie.client import ProxyKmipClient

host, port, certificate, key, ca, version = sys.argv[1:7]
number = tuple(int(part) for part in version.split("."))
MASKS = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]


def refused(reasons, call, *arguments):
    """The call fails with one of the reasons."""
    try:
        call(*arguments)
    except exceptions.KmipOperationFailure as failure:
        assert failure.reason in reasons, failure
    else:
        raise AssertionError("%r was not refused" % call)


def questions(client):
    found = client.proxy.query(query_functions=list(query_functions()))
    assert found.result_status.value == enums.ResultStatus.SUCCESS, found.result_message
    assert enums.Operation.CREATE in [o if isinstance(o, enums.Operation) else o.value
                                      for o in found.operations], found.operations
    assert found.vendor_identification, "the server says who made it"
    if number >= (1, 1):
        found = client.proxy.discover_versions()
        spoken = [str(each) for each in found.protocol_versions]
        assert "1.0" in spoken and "2.1" in spoken, spoken


def query_functions():
    newest = {(1, 0): 4, (1, 1): 6, (1, 2): 7, (1, 3): 12, (1, 4): 12, (2, 0): 14}[number]
    return [each for each in enums.QueryFunction if each.value <= newest]


def life(client, uid, expected):
    """Attributes, activation, revocation and destruction of an object that may do all of it."""
    names = client.get_attribute_list(uid)
    assert "State" in names and "Object Type" in names, names
    _, attributes = client.get_attributes(uid, ["State", "Object Type", "Unique Identifier"])
    assert len(attributes) == 3, attributes
    # All attributes at once fail inside PyKMIP in most versions: in 1.0 it wants a Key Format Type
    # in Digest, which came with 1.1; from 1.3 on it cannot read a Random Number Generator, which
    # created keys have; and in 2.0 it has no Original Creation Date.
    if (1, 0) < number < (1, 3):
        client.get_attributes(uid)
    got = client.get(uid)
    assert got == expected or got.value == expected.value, (got, expected)
    client.activate(uid)
    denied = [enums.ResultReason.PERMISSION_DENIED, enums.ResultReason.WRONG_KEY_LIFECYCLE_STATE]
    refused(denied, client.activate, uid)
    refused(denied, client.destroy, uid)
    client.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, uid, "over")
    client.destroy(uid)
    gone = [enums.ResultReason.ITEM_NOT_FOUND, enums.ResultReason.OBJECT_DESTROYED]
    refused(gone, client.get, uid)


def brought():
    """One object of each kind, with bytes nobody looks into."""
    aes = enums.CryptographicAlgorithm.AES
    rsa = enums.CryptographicAlgorithm.RSA
    yield objects.SymmetricKey(aes, 128, b"\x01" * 16, MASKS, name="brought " + version)
    yield objects.SecretData(b"secret", enums.SecretDataType.PASSWORD)
    yield objects.OpaqueObject(b"opaque", enums.OpaqueDataType.NONE)
    yield objects.PublicKey(rsa, 2048, b"\x30\x82", enums.KeyFormatType.PKCS_1)
    yield objects.PrivateKey(rsa, 2048, b"\x30\x82", enums.KeyFormatType.PKCS_8)
    yield objects.X509Certificate(b"\x30\x82")


def created(client):
    name = "created by PyKMIP " + version
    uid = client.create(enums.CryptographicAlgorithm.AES, 256, name=name,
                        cryptographic_usage_mask=MASKS)
    wanted = AttributeFactory().create_attribute(
        enums.AttributeType.NAME, attribute_value(name))
    assert client.locate(attributes=[wanted]) == [uid]
    expected = client.get(uid)
    assert len(expected.value) == 32
    life(client, uid, expected)
    assert client.locate(attributes=[wanted]) == []


def attribute_value(name):
    from kmip.core import attributes
    return attributes.Name.create(name, enums.NameType.UNINTERPRETED_TEXT_STRING)


def main():
    spoken = enums.KMIPVersion["KMIP_%d_%d" % number]
    with ProxyKmipClient(hostname=host, port=int(port), cert=certificate, key=key, ca=ca,
                         kmip_version=spoken) as client:
        questions(client)
        created(client)
        for each in brought():
            uid = client.register(each)
            life(client, uid, each)
        missing = [enums.ResultReason.ITEM_NOT_FOUND, enums.ResultReason.OBJECT_NOT_FOUND]
        refused(missing, client.get, "no such object")
    print("done", version)


main()
