//! Keys split by exclusive or over ways without a common node. Enter through [`joined`].

use km_core::{material::ClearBytes, module::ModuleKey, provenance::Provenance};

/// Between the names of the shares of one key.
pub(crate) const BETWEEN: &str = "-";

/// The exclusive or of shares, as long as the shortest, under all their names; `None` when they do not fit.
pub fn joined(shares: impl IntoIterator<Item = ModuleKey>) -> Option<ModuleKey> {
    let (mut ids, mut ways, mut sum) = (Vec::new(), Vec::new(), None::<ClearBytes>);
    for ModuleKey { id, bytes, came } in shares {
        sum = Some(match sum {
            None => bytes,
            Some(sum) => xor(&sum, &bytes),
        });
        ids.push(id);
        ways.push(came?);
    }
    let came = Some(Provenance::split(ways)?);
    Some(ModuleKey { id: ids.join(BETWEEN), bytes: sum?, came })
}

fn xor(one: &ClearBytes, other: &ClearBytes) -> ClearBytes {
    let bytes = |one: &[u8], other: &[u8]| one.iter().zip(other).map(|(a, b)| a ^ b).collect();
    one.expose(|one| other.expose(|other| ClearBytes::from_vec(bytes(one, other))))
}
