//! Identifiers: who, which channel, which stream, which log.
//!
//! All are values: `Ord`, cheap to clone, and impossible to build out of range.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Context string of [`ChannelId`] derivation (blake3 derive-key mode).
const CHANNEL_CONTEXT: &str = "anabranch 1 channel";
/// Context string of [`LogKey`] derivation (blake3 derive-key mode).
const LOG_CONTEXT: &str = "anabranch 1 log";
/// RFC 4648 base32, lower case: survives file names, URLs and being read aloud.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Characters of an id that [`fmt::Display`] of the short form shows: 50 bits, enough to tell peers apart by eye.
const SHORT_CHARS: usize = 10;
/// Largest length of a [`StreamId`] and of a channel name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 64;
/// Largest length of a channel secret, in bytes: its length is hashed as one byte.
pub const MAX_SECRET_BYTES: usize = 255;

/// An identifier that the caller gave is out of range. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// A stream id or channel name must have 1 to [`MAX_NAME_BYTES`] bytes.
    #[error("a name must have 1 to {MAX_NAME_BYTES} bytes of UTF-8, this one has {0}")]
    NameLength(usize),
    /// A channel secret must have 1 to [`MAX_SECRET_BYTES`] bytes.
    #[error("a channel secret must have 1 to {MAX_SECRET_BYTES} bytes, this one has {0}")]
    SecretLength(usize),
    /// The text is not the base32 form of 32 bytes.
    #[error("not the base32 form of a 32-byte id")]
    NotBase32,
    /// The bytes are not a valid ed25519 public key, so no node can have this id.
    #[error("not an ed25519 public key")]
    NotAKey,
}

/// One replica: its ed25519 public key.
///
/// Shown in full as 52 characters of base32 by [`fmt::Display`]; [`NodeId::short`] is for people.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct NodeId([u8; 32]);

impl NodeId {
    /// The id with these bytes. Whether they are a valid key shows when a signature is checked.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first ten characters of the base32 form: to show, never to compare.
    pub fn short(&self) -> String {
        short(&self.0)
    }
}

/// A channel: 32 bytes that only those learn who know its name and secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ChannelId([u8; 32]);

impl ChannelId {
    /// A deliberately public channel: everybody who knows the name can compute the id.
    ///
    /// # Errors
    /// [`IdError::NameLength`] if `name` is empty or longer than [`MAX_NAME_BYTES`].
    pub fn well_known(name: &str) -> Result<Self, IdError> {
        Self::derive(name, &[])
    }

    /// A channel for those who share `secret`. Another secret gives another channel, so two groups that
    /// chose the same name never meet.
    ///
    /// # Errors
    /// [`IdError::NameLength`], or [`IdError::SecretLength`] if the secret is empty or too long.
    pub fn secret(name: &str, secret: &[u8]) -> Result<Self, IdError> {
        if secret.is_empty() || secret.len() > MAX_SECRET_BYTES {
            return Err(IdError::SecretLength(secret.len()));
        }
        Self::derive(name, secret)
    }

    fn derive(name: &str, secret: &[u8]) -> Result<Self, IdError> {
        check_name(name)?;
        let mut hasher = blake3::Hasher::new_derive_key(CHANNEL_CONTEXT);
        hasher.update(&[name.len() as u8]);
        hasher.update(name.as_bytes());
        hasher.update(&[secret.len() as u8]);
        hasher.update(secret);
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the id. Whoever holds them can ask for the channel: treat them like the secret.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first ten characters of the base32 form: to show, never to compare.
    pub fn short(&self) -> String {
        short(&self.0)
    }
}

/// A stream within a channel: 1 to 64 bytes of UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(Arc<str>);

impl StreamId {
    /// The stream of this name.
    ///
    /// # Errors
    /// [`IdError::NameLength`] if `name` is empty or longer than [`MAX_NAME_BYTES`].
    pub fn new(name: &str) -> Result<Self, IdError> {
        check_name(name)?;
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for StreamId {
    type Error = IdError;
    fn try_from(name: &str) -> Result<Self, IdError> {
        Self::new(name)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for StreamId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for StreamId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::new(&name).map_err(serde::de::Error::custom)
    }
}

/// Name and hash key of a log: derived from channel, stream and author, so that an entry hashed for one
/// log is worthless in any other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct LogKey([u8; 32]);

impl LogKey {
    /// The key of `author`'s log in `stream` of `channel`.
    pub fn derive(channel: &ChannelId, stream: &StreamId, author: &NodeId) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(LOG_CONTEXT);
        hasher.update(channel.as_bytes());
        hasher.update(&[stream.as_str().len() as u8]);
        hasher.update(stream.as_str().as_bytes());
        hasher.update(author.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

fn check_name(name: &str) -> Result<(), IdError> {
    match name.len() {
        1..=MAX_NAME_BYTES => Ok(()),
        n => Err(IdError::NameLength(n)),
    }
}

fn short(bytes: &[u8; 32]) -> String {
    let mut text = base32(bytes);
    text.truncate(SHORT_CHARS);
    text
}

fn base32(bytes: &[u8; 32]) -> String {
    let mut text = String::with_capacity(52);
    let (mut pending, mut bits) = (0u32, 0);
    for byte in bytes {
        pending = (pending << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(BASE32[(pending >> bits) as usize & 31] as char);
        }
    }
    // 256 = 51 * 5 + 1: the last character carries one bit.
    text.push(BASE32[(pending << (5 - bits)) as usize & 31] as char);
    text
}

fn from_base32(text: &str) -> Result<[u8; 32], IdError> {
    if text.len() != 52 {
        return Err(IdError::NotBase32);
    }
    let (mut bytes, mut at, mut pending, mut bits) = ([0u8; 32], 0, 0u32, 0);
    for c in text.bytes() {
        let value = BASE32.iter().position(|b| *b == c.to_ascii_lowercase()).ok_or(IdError::NotBase32)?;
        pending = (pending << 5) | value as u32;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes[at] = (pending >> bits) as u8;
            at += 1;
        }
    }
    // The spare bits must be zero, else two texts would name one id.
    if pending & ((1 << bits) - 1) != 0 {
        return Err(IdError::NotBase32);
    }
    Ok(bytes)
}

macro_rules! shown_as_base32 {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&base32(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                from_base32(text).map(Self)
            }
        }
    )*};
}
shown_as_base32!(NodeId, ChannelId);

macro_rules! debugged_short {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), short(&self.0))
            }
        }
    )*};
}
debugged_short!(NodeId, LogKey);

impl fmt::Debug for ChannelId {
    /// A fingerprint of the id, not its bytes: knowing the id is a right, and logs are read by many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelId(#{})", short(blake3::hash(&self.0).as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_form() {
        for seed in 0..64u8 {
            let id = NodeId::from_bytes(*blake3::hash(&[seed]).as_bytes());
            assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
            assert_eq!(id.to_string().len(), 52);
        }
    }

    #[test]
    fn a_text_with_spare_bits_set_names_no_id() {
        let mut text = NodeId::from_bytes([0; 32]).to_string();
        text.replace_range(51.., "b");
        assert_eq!(text.parse::<NodeId>(), Err(IdError::NotBase32));
    }

    #[test]
    fn names_of_0_and_65_bytes_are_refused() {
        assert_eq!(StreamId::new(""), Err(IdError::NameLength(0)));
        assert_eq!(StreamId::new(&"x".repeat(65)), Err(IdError::NameLength(65)));
        assert!(StreamId::new(&"x".repeat(64)).is_ok());
        assert_eq!(ChannelId::well_known(""), Err(IdError::NameLength(0)));
        assert_eq!(ChannelId::secret("a", b""), Err(IdError::SecretLength(0)));
    }

    #[test]
    fn two_groups_with_the_same_channel_name_never_share_an_id() {
        let public = ChannelId::well_known("notes").unwrap();
        let ours = ChannelId::secret("notes", b"ours").unwrap();
        let theirs = ChannelId::secret("notes", b"theirs").unwrap();
        assert!(public != ours && ours != theirs && public != theirs);
    }

    #[test]
    fn the_debug_form_of_a_channel_does_not_leak_its_id() {
        let id = ChannelId::secret("notes", b"s").unwrap();
        assert!(!format!("{id:?}").contains(&id.short()));
    }
}
