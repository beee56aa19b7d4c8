//! The way of a batch as each hop adds to it, and as both its ends come to agree on it.

use km_core::{
    ids::ClusterId,
    provenance::{Hop, HopCipher},
    route::Route,
};

/// The path with the hop to `here` added, as who opened it saw it.
pub fn with_hop(mut path: Vec<Hop>, here: &ClusterId, cipher: HopCipher) -> Vec<Hop> {
    path.push(Hop { to: here.clone(), cipher });
    path
}

/// The path the destination saw, if it is the route asked for, with ciphers its policy allows, and
/// begins as this end sent it. Of what each end says of the first hop the worse counts.
pub fn agreed(route: &Route, sent: HopCipher, mut seen: Vec<Hop>) -> Option<Vec<Hop>> {
    if !seen.iter().map(|hop| &hop.to).eq(route.hops()) {
        return None;
    }
    if !seen.iter().all(|hop| route.cipher().allows(hop.cipher)) {
        return None;
    }
    let first = seen.first_mut()?;
    if sent == HopCipher::OtpComputational {
        first.cipher = sent;
    }
    let agreed = first.cipher == sent || first.cipher == HopCipher::OtpComputational;
    agreed.then_some(seen)
}

#[cfg(test)]
mod tests {
    use HopCipher::{Aes256Gcm, Otp, OtpComputational, Shared};

    use km_core::route::CipherPolicy;

    use super::*;

    #[test]
    fn the_path_told_must_be_the_route_with_the_ciphers_it_allows() {
        let cluster = |name: &str| ClusterId::parse(name).unwrap();
        let route = |cipher| Route::new(["b", "c"].map(cluster).to_vec(), cipher).unwrap();
        let path = |ciphers: [HopCipher; 2]| {
            let hop = |(to, cipher)| Hop { to: cluster(to), cipher };
            ["b", "c"].into_iter().zip(ciphers).map(hop).collect::<Vec<_>>()
        };
        let (strict, free) = (route(CipherPolicy::OtpOnly), route(CipherPolicy::OtpElseAes));
        let with_aes = path([Shared, Aes256Gcm]);
        assert_eq!(agreed(&strict, Shared, with_aes.clone()), None);
        assert_eq!(agreed(&free, Shared, with_aes.clone()), Some(with_aes));
        assert_eq!(agreed(&free, Aes256Gcm, path([Otp, Otp])), None);
        let lower = agreed(&strict, OtpComputational, path([Otp, Otp]));
        assert_eq!(lower, Some(path([OtpComputational, Otp])));
        assert_eq!(agreed(&strict, Shared, path([Shared, Otp])[..1].to_vec()), None);
    }
}
