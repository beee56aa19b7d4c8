"""Keys of Python's `cryptography` (OpenSSL) through this server with PyKMIP's client.

Arguments: host, port, certificate, key, CA. Each form of each key is registered and asked for in
every other form, which must be what `cryptography` writes, byte for byte. Wrapped keys are unwrapped
by `cryptography`, and keys it wrapped are given back as they came. Prints "done".
"""
import itertools
import sys

from cryptography.hazmat.primitives import keywrap, serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kmip.core import enums
from kmip.core.misc import KeyFormatType
from kmip.pie import objects
from kmip.pie.client import ProxyKmipClient

Format = enums.KeyFormatType
DER = forms.Encoding.DER
OPEN = forms.NoEncryption()
numbers = itertools.count()
RSA, EC = enums.CryptographicAlgorithm.RSA, enums.CryptographicAlgorithm.EC


def private_forms(key):
    traditional = Format.PKCS_1 if isinstance(key, rsa.RSAPrivateKey) else Format.EC_PRIVATE_KEY
    return {
        traditional: key.private_bytes(DER, forms.PrivateFormat.TraditionalOpenSSL, OPEN),
        Format.PKCS_8: key.private_bytes(DER, forms.PrivateFormat.PKCS8, OPEN),
    }


def public_forms(key):
    public = key.public_key()
    found = {Format.X_509: public.public_bytes(DER, forms.PublicFormat.SubjectPublicKeyInfo)}
    if isinstance(key, rsa.RSAPrivateKey):
        found[Format.PKCS_1] = public.public_bytes(DER, forms.PublicFormat.PKCS1)
    return found


def given(client, uid, form):
    """The bytes of a key in a form. Only PyKMIP's lower client can ask for one."""
    result = client.proxy.get(uid, key_format_type=KeyFormatType(form))
    assert result.result_status.value == enums.ResultStatus.SUCCESS, result.result_message
    block = result.secret.key_block
    assert block.key_format_type.value == form, block.key_format_type
    return block.key_value.key_material.value


def all_forms(client, kind, algorithm, bits, known):
    for form, value in known.items():
        # PyKMIP's PrivateKey and PublicKey know fewer forms than KMIP; the type is checked only
        # when they are made.
        # A name of its own: PyKMIP would call them all alike.
        name = "%s %s %d %s" % (kind.__name__, algorithm.name, next(numbers), form.name)
        key = kind(algorithm, bits, value, usual(kind), name=name)
        key.key_format_type = form
        uid = client.register(key)
        for other, expected in known.items():
            found = given(client, uid, other)
            assert found == expected, (algorithm, bits, form, other, found.hex(), expected.hex())


def usual(kind):
    return Format.PKCS_8 if kind is objects.PrivateKey else Format.X_509


def asymmetric(client):
    keys = [(RSA, bits, rsa.generate_private_key(65537, bits)) for bits in (2048, 3072)]
    for curve in (ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1, ec.SECP256K1):
        keys.append((EC, curve().key_size, ec.generate_private_key(curve())))
    for algorithm, bits, key in keys:
        all_forms(client, objects.PrivateKey, algorithm, bits, private_forms(key))
        all_forms(client, objects.PublicKey, algorithm, bits, public_forms(key))


def wrapping(client):
    masks = [enums.CryptographicUsageMask.WRAP_KEY, enums.CryptographicUsageMask.UNWRAP_KEY]
    aes = enums.CryptographicAlgorithm.AES
    for bits in (128, 192, 256):
        kek = bytes(range(bits // 8))
        kek_id = client.register(objects.SymmetricKey(aes, bits, kek, masks, name="kek %d" % bits))
        client.activate(kek_id)
        for mode, wrap, unwrap in (
                (enums.BlockCipherMode.NIST_KEY_WRAP, keywrap.aes_key_wrap,
                 keywrap.aes_key_unwrap),
                (enums.BlockCipherMode.AES_KEY_WRAP_PADDING, keywrap.aes_key_wrap_with_padding,
                 keywrap.aes_key_unwrap_with_padding)):
            for size in (16, 24, 32):
                value = bytes(range(100, 100 + size))
                uid = client.register(
                    objects.SymmetricKey(aes, size * 8, value, name="key %d" % next(numbers)))
                how = {
                    'wrapping_method': enums.WrappingMethod.ENCRYPT,
                    'encryption_key_information': {
                        'unique_identifier': kek_id,
                        'cryptographic_parameters': {'block_cipher_mode': mode},
                    },
                    'encoding_option': enums.EncodingOption.NO_ENCODING,
                }
                wrapped = client.get(uid, key_wrapping_specification=how)
                assert unwrap(kek, wrapped.value) == value, (bits, mode, size)
                mine = wrap(kek, value)
                brought = client.register(
                    objects.SymmetricKey(aes, size * 8, mine, name="key %d" % next(numbers),
                                         key_wrapping_data=how))
                assert client.get(brought).value == mine


def main():
    host, port, certificate, key, ca = sys.argv[1:6]
    with ProxyKmipClient(hostname=host, port=int(port), cert=certificate, key=key, ca=ca,
                         kmip_version=enums.KMIPVersion.KMIP_1_4) as client:
        asymmetric(client)
        wrapping(client)
    print("done")


main()
