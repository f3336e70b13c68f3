//! Small files that cannot be damaged unnoticed: a first line with kind, version and the digest of all that follows.
//! Knows nothing of what they hold.

use crate::digest::Digest;

/// What a sealed file is, and which version of it is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// One word.
    pub(crate) name: &'static str,
    /// Changes with the meaning of the body.
    pub(crate) version: u32,
}

impl Kind {
    fn header(self, body: &[u8]) -> String {
        format!("chariot {} {} {}\n", self.name, self.version, Digest::of(body))
    }

    /// The whole file for a body.
    pub(crate) fn seal(self, body: &[u8]) -> Vec<u8> {
        let mut file = self.header(body).into_bytes();
        file.extend_from_slice(body);
        file
    }

    /// The body of a whole file; an `Err` says what is wrong with it.
    pub(crate) fn open(self, file: &[u8]) -> Result<&[u8], String> {
        let end = file.iter().position(|&b| b == b'\n').ok_or("no header line")?;
        let (header, body) = file.split_at(end + 1);
        let expected = self.header(body);
        if header == expected.as_bytes() {
            return Ok(body);
        }
        let prefix = format!("chariot {} {} ", self.name, self.version);
        match header.starts_with(prefix.as_bytes()) {
            true => Err("its bytes do not match its digest".to_owned()),
            false => Err(format!("expected {:?}, found {:?}", prefix.trim_end(), start(header))),
        }
    }
}

/// The part of a header that people may read.
fn start(header: &[u8]) -> String {
    String::from_utf8_lossy(&header[..header.len().min(32)]).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIND: Kind = Kind { name: "test", version: 3 };

    #[test]
    fn another_kind_or_version_is_refused_by_name() {
        let other = Kind { name: "test", version: 4 }.seal(b"body");
        assert_eq!(
            KIND.open(&other).unwrap_err(),
            format!("expected \"chariot test 3\", found {:?}", &String::from_utf8_lossy(&other)[..32])
        );
        assert_eq!(KIND.open(b"").unwrap_err(), "no header line");
    }

    proptest! {
        #[test]
        fn any_flipped_bit_or_cut_is_seen(body: Vec<u8>, at: prop::sample::Index, bit in 0..8u8) {
            let whole = KIND.seal(&body);
            prop_assert_eq!(KIND.open(&whole).unwrap(), &body[..]);
            let at = at.index(whole.len());
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            prop_assert!(KIND.open(&flipped).is_err());
            prop_assert!(KIND.open(&whole[..at]).is_err());
        }
    }
}
