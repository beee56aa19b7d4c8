//! Keys in parts: exclusive or, where all parts are needed, and Shamir's sharing byte by byte in
//! GF(2^8) with the polynomial x^8 + x^4 + x^3 + x + 1. Enter through [`split`] and [`join`].
//!
//! The arithmetic takes the same time for all values.

use wiped::Wiped;

/// Bytes of a part, overwritten on drop.
pub(crate) type PartBytes = Wiped;

/// `parts` parts of `secret`, each as long as it. `random` has the bytes of all parts but one.
pub(crate) fn split_xor(secret: &[u8], parts: usize, random: &[u8]) -> Vec<PartBytes> {
    let mut last = Wiped::copy_of(secret);
    let mut all: Vec<PartBytes> = random
        .chunks_exact(secret.len().max(1))
        .take(parts.saturating_sub(1))
        .map(Wiped::copy_of)
        .collect();
    for part in &all {
        add(&mut last, part);
    }
    all.push(last);
    all
}

/// The secret out of all its parts.
pub(crate) fn join_xor(parts: &[&[u8]]) -> PartBytes {
    let mut secret = Wiped::zeros(parts.first().map_or(0, |part| part.len()));
    for part in parts {
        add(&mut secret, part);
    }
    secret
}

/// `parts` parts of `secret`, numbered from 1, of which as many give it back as `random` has
/// multiples of its length, and one more.
pub(crate) fn split_gf256(secret: &[u8], parts: u8, random: &[u8]) -> Vec<PartBytes> {
    let at = |x: u8| {
        // Horner's rule, from the highest coefficient down to the secret.
        let mut value = Wiped::zeros(secret.len());
        for coefficient in random.chunks_exact(secret.len().max(1)) {
            add(&mut value, coefficient);
            scale(&mut value, x);
        }
        add(&mut value, secret);
        value
    };
    (1..=parts).map(at).collect()
}

/// The secret out of numbered parts. The numbers differ and none is 0.
pub(crate) fn join_gf256(parts: &[(u8, &[u8])]) -> PartBytes {
    let mut secret = Wiped::zeros(parts.first().map_or(0, |(_, part)| part.len()));
    for (x, part) in parts {
        let others = parts.iter().map(|(other, _)| *other).filter(|other| other != x);
        // Lagrange's polynomial of this part at 0.
        let weight =
            others.fold(1, |weight, other| times(weight, times(other, inverse(other ^ x))));
        let mut share = Wiped::copy_of(part);
        scale(&mut share, weight);
        add(&mut secret, &share);
    }
    secret
}

fn add(to: &mut [u8], what: &[u8]) {
    to.iter_mut().zip(what).for_each(|(to, what)| *to ^= what);
}

fn scale(bytes: &mut [u8], by: u8) {
    bytes.iter_mut().for_each(|byte| *byte = times(*byte, by));
}

/// Product in GF(2^8).
fn times(a: u8, b: u8) -> u8 {
    let (mut a, mut product) = (a, 0);
    for bit in 0..8 {
        product ^= a & 0u8.wrapping_sub((b >> bit) & 1);
        let carry = 0u8.wrapping_sub(a >> 7);
        a = (a << 1) ^ (carry & 0x1B);
    }
    product
}

/// The 254th power, which is the inverse of all but 0.
fn inverse(a: u8) -> u8 {
    let mut power = 1;
    for _ in 0..7 {
        power = times(times(power, power), a);
    }
    times(power, power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_that_of_aes() {
        // FIPS 197, 4.2: {57} x {83} = {c1}, {57} x {13} = {fe}; {53} and {ca} are inverse.
        assert_eq!(times(0x57, 0x83), 0xC1);
        assert_eq!(times(0x57, 0x13), 0xFE);
        assert_eq!(inverse(0x53), 0xCA);
        assert!((1..=255).all(|a| times(a, inverse(a)) == 1));
    }

    #[test]
    fn any_threshold_parts_give_the_secret_back_and_fewer_do_not() {
        let secret = [1, 2, 3, 0xFF];
        let random = [9, 8, 7, 6, 0x55, 0xAA, 0, 1];
        let parts = split_gf256(&secret, 5, &random);
        let numbered: Vec<(u8, &[u8])> = (1..).zip(parts.iter().map(|part| &**part)).collect();
        for first in 0..5 {
            for second in (0..5).filter(|at| *at != first) {
                for third in (0..5).filter(|at| *at != first && *at != second) {
                    let some = [numbered[first], numbered[second], numbered[third]];
                    assert_eq!(*join_gf256(&some), secret);
                }
                assert_ne!(*join_gf256(&[numbered[first], numbered[second]]), secret);
            }
        }
    }

    #[test]
    fn a_known_sharing() {
        // f(x) = 0x42 + 0x11 x: f(1) = 0x53, f(2) = 0x60, f(3) = 0x71.
        let parts = split_gf256(&[0x42], 3, &[0x11]);
        assert_eq!(parts.iter().map(|part| part[0]).collect::<Vec<_>>(), [0x53, 0x60, 0x71]);
    }

    #[test]
    fn exclusive_or_needs_all_parts() {
        let secret = [1, 2, 3];
        let parts = split_xor(&secret, 3, &[4, 5, 6, 7, 8, 9]);
        let all: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
        assert_eq!(*join_xor(&all), secret);
        assert_ne!(*join_xor(&all[..2]), secret);
    }
}
