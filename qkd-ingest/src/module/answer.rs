//! Statuses other than 200: the one place where the module's HTTP becomes a [`ModuleError`].

use etsi014::ErrorBody;
use km_core::module::ModuleError;

use super::channel::Answer;

/// Most characters of a module's own words kept.
const WORDS: usize = 200;
/// Longest error body looked at, in bytes.
const ERROR_BODY: usize = 64 * 1024;

/// The error of an answer other than 200 to `request`.
pub(super) fn refusal(request: &'static str, answer: &Answer) -> ModuleError {
    let status = answer.status;
    let said = words(answer).map(|w| format!(": {w}")).unwrap_or_default();
    match status {
        401 | 403 => ModuleError::Protocol(format!(
            "{request} was refused with status {status}{said}. Check at the module that this KM's \
             certificate is registered and that sae and peer_sae are its names"
        )),
        408 | 429 | 500..=599 => ModuleError::Unavailable(format!("{request}: {status}{said}")),
        _ => ModuleError::Protocol(format!("{request} was answered with status {status}{said}")),
    }
}

/// Whether dec_keys was refused because a key is not there. Servers word this differently, and
/// some say nothing: what we send is well-formed, so a 400 without words means that too. Words
/// about a SAE mean the configuration.
pub(super) fn is_unknown_key(answer: &Answer) -> bool {
    let says = |words: &str| {
        let words = words.to_ascii_lowercase();
        ["not found", "unknown", "no such", "not exist", "not available", "missing"]
            .iter()
            .any(|sign| words.contains(sign))
            && !words.contains("sae")
    };
    match (answer.status, words(answer)) {
        (400, None) => true,
        (400 | 404, Some(words)) => says(&words),
        _ => false,
    }
}

/// The message of an error body, without control characters.
fn words(answer: &Answer) -> Option<String> {
    let body = answer.body.get(..answer.body.len().min(ERROR_BODY))?;
    let message = ErrorBody::parse(body).ok()?.message;
    let plain: String = message.chars().filter(|c| !c.is_control()).take(WORDS).collect();
    (!plain.trim().is_empty()).then_some(plain)
}

#[cfg(test)]
mod tests {
    use wiped::Wiped;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: Wiped::copy_of(body.as_bytes()) }
    }

    #[test]
    fn unknown_keys_are_told_from_wrong_requests() {
        let standard = format!(r#"{{"message":"{}"}}"#, etsi014::text::KEYS_NOT_FOUND);
        for body in [standard.as_str(), r#"{"message":"Unknown key_ID","details":null}"#, "", "<p>"]
        {
            assert!(is_unknown_key(&answer(400, body)), "{body}");
        }
        assert!(is_unknown_key(&answer(404, r#"{"message":"key not found"}"#)));
        let sae = r#"{"message":"master_SAE_ID not found"}"#;
        let many = r#"{"message":"too many key_IDs"}"#;
        for (status, body) in [(400, many), (400, sae), (404, ""), (503, "")] {
            assert!(!is_unknown_key(&answer(status, body)), "{status} {body}");
        }
    }

    #[test]
    fn temporary_and_lasting_refusals_differ() {
        for status in [429, 500, 503] {
            let error = refusal("status", &answer(status, ""));
            assert!(matches!(error, ModuleError::Unavailable(_)), "{status}");
        }
        for status in [301, 400, 401, 404] {
            let error = refusal("status", &answer(status, ""));
            assert!(matches!(error, ModuleError::Protocol(_)), "{status}");
        }
        let loud = format!(r#"{{"message":"\u001b[31m{}"}}"#, "x".repeat(5000));
        let text = refusal("enc_keys", &answer(400, &loud)).to_string();
        assert!(!text.contains('\u{1b}') && text.len() < 400);
    }
}
