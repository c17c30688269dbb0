//! Pure. Join tokens: `STK-1-<SHA-256 of the authority's certificate>-<secret>`, both in base 36.
//!
//! The first part lets a host that joins know that it talks to the right cluster before it says the secret. A token must be
//! shown again (`stack cluster token`), so it is stored as it is, in the replicated state, which only controllers hold.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const PREFIX: &str = "STK-1-";
/// 256 bits.
const DIGEST_DIGITS: usize = 50;
/// 128 bits.
const SECRET_DIGITS: usize = 25;

/// A text that is no join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Another thing altogether.
    #[error("this is not a join token: one starts with `STK-1-`; `stack cluster token` on a controller shows it")]
    NotAToken,
    /// Cut off or mistyped.
    #[error("this join token is not complete: copy it whole from `stack cluster token`")]
    Incomplete,
}

/// What lets a host become a member. `Debug` does not print it.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    authority: [u8; 32],
    secret: Zeroizing<String>,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JoinToken(..)")
    }
}

/// The digest that a token names a cluster by.
#[must_use]
pub fn authority_digest(certificate_der: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate_der).into()
}

impl JoinToken {
    /// For the cluster with this authority; the secret is 128 bits that the caller drew.
    #[must_use]
    pub fn new(authority_certificate_der: &[u8], secret: u128) -> Self {
        let mut digits = [b'0'; SECRET_DIGITS];
        to_base36(&secret.to_be_bytes(), &mut digits);
        let secret = Zeroizing::new(digits.iter().map(|&digit| char::from(digit)).collect());
        Self { authority: authority_digest(authority_certificate_der), secret }
    }

    /// Of the certificate of the cluster's authority.
    #[must_use]
    pub const fn authority(&self) -> &[u8; 32] {
        &self.authority
    }

    /// The whole text, for a person.
    #[must_use]
    pub fn reveal(&self) -> String {
        let mut digits = [b'0'; DIGEST_DIGITS];
        to_base36(&self.authority, &mut digits);
        let digest: String = digits.iter().map(|&digit| char::from(digit)).collect();
        format!("{PREFIX}{digest}-{}", self.secret.as_str())
    }
}

/// Whether two tokens are the same, in a time that does not tell how much of them is.
#[must_use]
pub fn same_token(presented: &str, expected: &str) -> bool {
    presented.as_bytes().ct_eq(expected.as_bytes()).into()
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let rest = text.trim().strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        let (digest, secret) = rest.split_once('-').ok_or(TokenError::Incomplete)?;
        let is_base36 = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z'));
        if digest.len() != DIGEST_DIGITS || secret.len() != SECRET_DIGITS || !is_base36(digest) || !is_base36(secret) {
            return Err(TokenError::Incomplete);
        }
        let authority = from_base36(digest).ok_or(TokenError::Incomplete)?;
        Ok(Self { authority, secret: Zeroizing::new(secret.to_owned()) })
    }
}

/// Fills all of `digits`, most significant first.
fn to_base36(bytes: &[u8], digits: &mut [u8]) {
    let mut number = bytes.to_vec();
    for digit in digits.iter_mut().rev() {
        let mut rest = 0u32;
        for byte in &mut number {
            let value = rest * 256 + u32::from(*byte);
            *byte = u8::try_from(value / 36).unwrap_or(0);
            rest = value % 36;
        }
        let rest = u8::try_from(rest).unwrap_or(0);
        *digit = if rest < 10 { b'0' + rest } else { b'a' + rest - 10 };
    }
}

/// `None` when the number does not fit.
fn from_base36(text: &str) -> Option<[u8; 32]> {
    let mut number = [0u8; 32];
    for digit in text.bytes() {
        let mut carry = u32::from(if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 });
        for byte in number.iter_mut().rev() {
            let value = u32::from(*byte) * 36 + carry;
            *byte = u8::try_from(value % 256).unwrap_or(0);
            carry = value / 256;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_token_reads_back(certificate: Vec<u8>, secret: u128) {
            let token = JoinToken::new(&certificate, secret);
            prop_assert_eq!(token.authority(), &authority_digest(&certificate));
            prop_assert_eq!(token.reveal().parse::<JoinToken>(), Ok(token.clone()));
            let shown = format!("{token:?}");
            prop_assert!(!shown.contains(token.secret.as_str()));
        }

        #[test]
        fn no_text_panics(text in ".{0,100}") {
            let _ = text.parse::<JoinToken>();
            let _ = format!("STK-1-{text}").parse::<JoinToken>();
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!("SWMTKN-1-a-b".parse::<JoinToken>(), Err(TokenError::NotAToken));
        assert_eq!("STK-1-abc-def".parse::<JoinToken>(), Err(TokenError::Incomplete));
        let too_large = format!("STK-1-{}-{}", "z".repeat(DIGEST_DIGITS), "0".repeat(SECRET_DIGITS));
        assert_eq!(too_large.parse::<JoinToken>(), Err(TokenError::Incomplete));
    }

    #[test]
    fn tokens_are_compared_whole() {
        assert!(same_token("STK-1-a-b", "STK-1-a-b"));
        assert!(!same_token("STK-1-a-b", "STK-1-a-c"));
        assert!(!same_token("", "STK-1-a-b"));
    }
}
