//! How an answer lies on disk: sealed under a key of its own, which is made of its owner's secret, the key of the stretch of
//! time it was written in, and the question.
//!
//! ```text
//!   format 1 | expires 8 | nonce 12 | ChaCha20-Poly1305 of the answer | tag 16        the question's name is bound to it
//! ```
//! A key seals one answer, and again only when the same question is answered anew within one stretch: the nonce is random,
//! and the few that one key ever sees do not meet among 2^96. ChaCha20 rather than AES: a key that is used once costs
//! nothing to set up, and it is as fast on processors without AES instructions.

use proto::ids::{ContentHash, UnixMs};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use super::keys::layout::Row;

/// Leading byte; another one is not read. 1 was not sealed.
const FORMAT: u8 = 2;
const EXPIRES: std::ops::Range<usize> = 1..9;
const HEAD_BYTES: usize = EXPIRES.end + NONCE_LEN;
/// What sealing adds.
pub(super) const OVERHEAD_BYTES: usize = HEAD_BYTES + 16;
/// Separates these keys from the names of questions, which hang on the same secret and begin with a length.
const CONTEXT: &[u8; 16] = b"meridian seal v1";

/// What an answer is sealed by.
pub(super) struct Lock<'a> {
    /// Of its owner.
    pub(super) secret: &'a Row,
    /// Of the stretch it is written in.
    pub(super) stretch: &'a Row,
    /// The question.
    pub(super) question: &'a ContentHash,
}

impl Lock<'_> {
    fn key(&self) -> Option<LessSafeKey> {
        let mut text = [0; 80];
        text[..16].copy_from_slice(CONTEXT);
        text[16..48].copy_from_slice(self.stretch);
        text[48..].copy_from_slice(self.question.as_bytes());
        let key = blake3::keyed_hash(self.secret, &text);
        UnboundKey::new(&CHACHA20_POLY1305, key.as_bytes())
            .ok()
            .map(LessSafeKey::new)
    }
    /// Format and expiry are not secret, and cannot be changed unseen.
    fn bound(&self, head: &[u8]) -> Aad<[u8; 41]> {
        let mut text = [0; 41];
        text[..EXPIRES.end].copy_from_slice(&head[..EXPIRES.end]);
        text[EXPIRES.end..].copy_from_slice(self.question.as_bytes());
        Aad::from(text)
    }

    /// Seals `answer`. `None` when the system gives no random numbers.
    pub(super) fn seal(&self, answer: &[u8], expires: UnixMs) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut sealed = Vec::with_capacity(answer.len() + OVERHEAD_BYTES);
        sealed.push(FORMAT);
        sealed.extend_from_slice(&expires.to_le_bytes());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(answer);
        let bound = self.bound(&sealed);
        let tag = self
            .key()?
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), bound, &mut sealed[HEAD_BYTES..])
            .ok()?;
        sealed.extend_from_slice(tag.as_ref());
        Some(sealed)
    }

    /// The answer in `sealed`; `None` for anything that was not sealed so.
    pub(super) fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        expires(sealed)?;
        let nonce = Nonce::try_assume_unique_for_key(sealed.get(EXPIRES.end..HEAD_BYTES)?).ok()?;
        let mut answer = sealed.get(HEAD_BYTES..)?.to_vec();
        let length = self
            .key()?
            .open_in_place(nonce, self.bound(sealed), &mut answer)
            .ok()?
            .len();
        answer.truncate(length);
        Some(answer)
    }
}

/// When the answer in `sealed` expires; `None` for anything this version did not write.
pub(super) fn expires(sealed: &[u8]) -> Option<UnixMs> {
    let bytes = sealed.get(EXPIRES)?;
    (sealed[0] == FORMAT).then(|| u64::from_le_bytes(*bytes.first_chunk().unwrap_or(&[0; 8])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_is_opened_by_its_own_three_keys_and_by_no_others() {
        let (a, b) = ([1; 32], [2; 32]);
        let (one, two) = (ContentHash::of(b"one"), ContentHash::of(b"two"));
        let lock = |secret, stretch, question| Lock {
            secret,
            stretch,
            question,
        };
        let sealed = lock(&a, &b, &one).seal(b"marker", 77).unwrap();
        assert_eq!(lock(&a, &b, &one).open(&sealed).unwrap(), b"marker");
        assert_eq!((expires(&sealed), sealed.len()), (Some(77), 6 + OVERHEAD_BYTES));
        assert!(!sealed.windows(6).any(|w| w == b"marker"));
        for other in [lock(&b, &b, &one), lock(&a, &a, &one), lock(&a, &b, &two)] {
            assert_eq!(other.open(&sealed), None);
        }
    }

    #[test]
    fn one_answer_sealed_twice_gives_other_bytes() {
        let (key, question) = ([1; 32], ContentHash::of(b"one"));
        let lock = Lock {
            secret: &key,
            stretch: &key,
            question: &question,
        };
        let (first, second) = (lock.seal(b"answer", 1).unwrap(), lock.seal(b"answer", 1).unwrap());
        assert_ne!(first[EXPIRES.end..HEAD_BYTES], second[EXPIRES.end..HEAD_BYTES]);
        assert_ne!(first[HEAD_BYTES..], second[HEAD_BYTES..]);
    }

    proptest! {
        #[test]
        fn whatever_one_bit_is_changed_nothing_is_opened(
            answer in prop::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), bit in 0..8_u8,
        ) {
            let (key, question) = ([1; 32], ContentHash::of(b"one"));
            let lock = Lock { secret: &key, stretch: &key, question: &question };
            let mut sealed = lock.seal(&answer, 1).unwrap();
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert_eq!(lock.open(&sealed), None);
        }

        #[test]
        fn no_bytes_make_the_opener_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let (key, question) = ([1; 32], ContentHash::of(b"one"));
            let lock = Lock { secret: &key, stretch: &key, question: &question };
            prop_assert_eq!(lock.open(&bytes), None);
        }
    }
}
