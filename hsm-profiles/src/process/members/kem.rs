//! ML-KEM with several tokens. A pair is in the token that made it, and its name tells in which. Enter
//! through [`Members::kem_key_pair`].

use std::time::Instant;

use km_core::hsm::HsmError;
use km_core::material::ClearBytes;
use km_core::usage::kem::KemSet;

use super::Members;
use crate::request::Request;
use crate::response::Response;

impl Members {
    pub(crate) fn are_several(&self) -> bool {
        self.all.len() > 1
    }

    /// Makes a pair in the first token that works and has ML-KEM.
    pub(crate) async fn kem_key_pair(&self, set: KemSet) -> Result<(Vec<u8>, Vec<u8>), HsmError> {
        let (n, response) = self.ask_able(&Request::KemKeyPair { set }).await?;
        let (name, public) = response.pair()?;
        let at = u32::try_from(n).map_err(|e| HsmError::Unsupported(e.to_string()))?;
        Ok(([&at.to_be_bytes()[..], &name].concat(), public))
    }

    pub(crate) async fn kem_encapsulate(
        &self,
        set: KemSet,
        public: &[u8],
    ) -> Result<(Vec<u8>, ClearBytes), HsmError> {
        let request = Request::KemEncapsulate { set, public: public.to_vec() };
        self.ask_able(&request).await?.1.encapsulated()
    }

    /// By the token that made the pair.
    pub(crate) async fn kem_decapsulate(
        &self,
        name: &[u8],
        ciphertext: &[u8],
    ) -> Result<ClearBytes, HsmError> {
        let (n, name) = place(name)?;
        let request = Request::KemDecapsulate { name, ciphertext: ciphertext.to_vec() };
        self.ask_one(n, &request, Instant::now() + self.deadline).await?.clear()
    }

    pub(crate) async fn kem_forget(&self, name: &[u8]) -> Result<(), HsmError> {
        let (n, name) = place(name)?;
        let until = Instant::now() + self.deadline;
        self.ask_one(n, &Request::KemForget { name }, until).await?.done()
    }

    /// The answer of the first token that works and does it at all, and which one that is. Tokens that are
    /// away do not count.
    async fn ask_able(&self, request: &Request) -> Result<(usize, Response), HsmError> {
        let mut unable = None;
        for (n, _) in self.all.iter().enumerate().filter(|(_, one)| one.usable(None).is_some()) {
            match self.ask_one(n, request, Instant::now() + self.deadline).await {
                Err(error @ HsmError::Unsupported(_)) => unable = Some(error),
                answer => return Ok((n, answer?)),
            }
        }
        Err(unable.unwrap_or_else(|| HsmError::Unavailable(self.troubles())))
    }
}

/// The token of a pair, and what it calls it.
fn place(name: &[u8]) -> Result<(usize, Vec<u8>), HsmError> {
    let unnamed = || HsmError::Unsupported("no token made an ML-KEM pair of this name".to_owned());
    let (at, name) = name.split_first_chunk().ok_or_else(unnamed)?;
    let at = usize::try_from(u32::from_be_bytes(*at)).map_err(|_| unnamed())?;
    Ok((at, name.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_pair_tells_its_token() {
        assert_eq!(place(&[0, 0, 1, 2, 7, 8]), Ok((0x102, vec![7, 8])));
        assert!(matches!(place(&[0, 0, 1]), Err(HsmError::Unsupported(_))));
    }
}
