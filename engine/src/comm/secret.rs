//! Proof that both ends of a connection belong to one run, without saying the secret. Knows nothing of what is said afterwards.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;

const BYTES: usize = 32;

/// A run's secret: whoever knows it may join.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; BYTES]);

/// Who one is in a handshake. It is part of what is proved, so that an answer cannot be sent back as one's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Accepted the connection.
    Listener,
    /// Made it.
    Caller,
}

/// Text that is no secret.
#[derive(Debug, Error)]
#[error("expected a secret of {} hexadecimal digits", 2 * BYTES)]
pub struct NoSecret;

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

fn random() -> io::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    let filled = getrandom(&mut bytes[..], GetRandomFlags::empty())?;
    assert_eq!(filled, BYTES, "up to 256 bytes come whole");
    Ok(bytes)
}

impl Secret {
    /// A new one, from the operating system's random numbers.
    pub fn random() -> io::Result<Self> {
        random().map(Self)
    }

    /// For a worker's stdin, and nowhere else.
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// What `to_hex` made.
    pub fn from_hex(text: &str) -> Result<Self, NoSecret> {
        Ok(Self(*blake3::Hash::from_hex(text).map_err(|_| NoSecret)?.as_bytes()))
    }

    /// Proves the secret to the other end and has it proved: each sends a random challenge, then a keyed hash of both challenges and
    /// its side. Fails if the other end does not know the secret.
    pub fn shake_hands(&self, stream: &mut TcpStream, side: Side) -> io::Result<()> {
        let mine = random()?;
        stream.write_all(&mine)?;
        let mut theirs = [0; BYTES];
        stream.read_exact(&mut theirs)?;
        let (of_listener, of_caller) = match side {
            Side::Listener => (mine, theirs),
            Side::Caller => (theirs, mine),
        };
        let proof = |side: Side| self.proof(side, &of_listener, &of_caller);
        // Who calls proves first: who listens answers no stranger.
        if side == Side::Caller {
            stream.write_all(proof(side).as_bytes())?;
        }
        let mut answer = [0; BYTES];
        stream.read_exact(&mut answer)?;
        let other = if side == Side::Caller { Side::Listener } else { Side::Caller };
        // Hashes compare in constant time.
        if proof(other) != blake3::Hash::from_bytes(answer) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "expected the run's secret, found another",
            ));
        }
        if side == Side::Listener {
            stream.write_all(proof(side).as_bytes())?;
        }
        Ok(())
    }

    fn proof(&self, side: Side, of_listener: &[u8], of_caller: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        let name: &[u8] = match side {
            Side::Listener => b"listener",
            Side::Caller => b"caller",
        };
        hasher.update(of_listener).update(of_caller).update(name).finalize()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn ends() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, caller)
    }

    fn shake(listener: &Secret, caller: &Secret) -> (io::Result<()>, io::Result<()>) {
        let (mut one, mut other) = ends();
        let caller = caller.clone();
        let thread = std::thread::spawn(move || caller.shake_hands(&mut other, Side::Caller));
        let result = listener.shake_hands(&mut one, Side::Listener);
        drop(one);
        (result, thread.join().unwrap())
    }

    #[test]
    fn who_shares_the_secret_is_let_in_and_nobody_else() {
        let [secret, other] = [(); 2].map(|()| Secret::random().unwrap());
        let copy = Secret::from_hex(&secret.to_hex()).unwrap();
        assert!(matches!(shake(&secret, &copy), (Ok(()), Ok(()))));
        let (listener, caller) = shake(&secret, &other);
        assert_eq!(listener.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(caller.is_err());
    }

    #[test]
    fn what_a_listener_sends_cannot_be_sent_back_to_it() {
        let (mut one, mut mirror) = ends();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok(count @ 1..) = mirror.read(&mut buffer) {
                if mirror.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        });
        one.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        assert!(Secret::random().unwrap().shake_hands(&mut one, Side::Listener).is_err());
        drop(one);
        thread.join().unwrap();
    }

    #[test]
    fn the_secret_is_not_shown_and_not_on_the_wire() {
        let secret = Secret::random().unwrap();
        assert!(!format!("{secret:?}").contains(&secret.to_hex()[..8]));
        let (one, mut other) = ends();
        let caller = secret.clone();
        let thread = std::thread::spawn(move || {
            let mut one = one;
            caller.shake_hands(&mut one, Side::Caller)
        });
        other.write_all(&[7; BYTES]).unwrap();
        let mut heard = vec![0; 2 * BYTES];
        other.read_exact(&mut heard).unwrap();
        assert!(heard.windows(8).all(|window| !secret.0.windows(8).any(|part| part == window)));
        drop(other);
        assert!(thread.join().unwrap().is_err());
        assert!(Secret::from_hex("no").is_err());
    }
}
