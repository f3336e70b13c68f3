use super::*;
use std::time::Duration;

struct Scratch {
    _dir: tempfile::TempDir,
    root: Utf8PathBuf,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        Self { _dir: dir, root }
    }

    fn digests(&self) -> FileDigests {
        FileDigests::load(&self.root.join("index"), &self.root)
    }

    /// Writes a file as old as `age`; its time of change stays the present.
    fn write(&self, name: &str, content: &str, age: Duration) -> Utf8PathBuf {
        let path = self.root.join(name);
        fs_err::write(&path, content).unwrap();
        let file = fs_err::File::options().write(true).open(&path).unwrap();
        file.set_modified(durable::now() - age).unwrap();
        path
    }

    fn knows(&self, digests: &FileDigests, name: &str) -> bool {
        digests.table().entries.contains_key(Utf8Path::new(name))
    }
}

#[test]
fn a_file_written_in_the_tick_of_its_hashing_is_hashed_again() {
    let scratch = Scratch::new();
    let digests = scratch.digests();
    for round in 0..200 {
        let content = format!("{round:04}");
        fs_err::write(scratch.root.join("a"), &content).unwrap();
        assert_eq!(digests.digest("a".into()).unwrap(), Digest::of(content.as_bytes()), "round {round}");
    }
    assert!(!scratch.knows(&digests, "a"));
}

#[test]
fn a_young_time_of_change_is_not_trusted_either() {
    let scratch = Scratch::new();
    let digests = scratch.digests();
    scratch.write("a", "old content", Duration::from_secs(3600));
    digests.digest("a".into()).unwrap();
    assert!(!scratch.knows(&digests, "a"));
}

#[test]
fn settled_is_a_matter_of_both_times() {
    let stamp = |modified_ns, changed_ns| Stamp { size: 1, modified_ns, changed_ns, inode: 1 };
    let second = 1_000_000_000;
    let now = 100 * second + 1;
    assert!(stamp(now - SETTLED_NS, now - SETTLED_NS).is_settled(now));
    assert!(!stamp(now - SETTLED_NS + 1, now - second).is_settled(now));
    assert!(!stamp(now - second, now - SETTLED_NS + 1).is_settled(now));
    assert!(!stamp(now + 5, now - second).is_settled(now), "a time in the future");
    assert!(!stamp(99 * second, now - second).is_settled(now), "whole seconds: a coarse clock");
    assert!(stamp(98 * second, now - second).is_settled(now));
}

#[test]
fn a_vouched_file_is_trusted_until_anything_changes() {
    let scratch = Scratch::new();
    let path = scratch.write("a", "aaaa", Duration::from_secs(3));
    let digests = scratch.digests();
    // A digest that no hashing could give shows whether the file was read.
    let marker = Digest::of(b"marker");
    digests.vouch(&path, marker).unwrap();
    assert_eq!(digests.digest("a".into()).unwrap(), marker);
    digests.save(&scratch.root.join("index")).unwrap();
    assert_eq!(scratch.digests().digest(&path).unwrap(), marker, "by its absolute path, in the next process");

    fs_err::write(&path, "bbbb").unwrap();
    assert_eq!(digests.digest("a".into()).unwrap(), Digest::of(b"bbbb"), "same size, at once");

    let path = scratch.write("c", "cccc", Duration::from_secs(3));
    digests.vouch(&path, marker).unwrap();
    let modified = fs_err::metadata(&path).unwrap().modified().unwrap();
    let replacement = scratch.write("d", "dddd", Duration::ZERO);
    fs_err::File::options().write(true).open(&replacement).unwrap().set_modified(modified).unwrap();
    fs_err::rename(replacement, path).unwrap();
    assert_eq!(
        digests.digest("c".into()).unwrap(),
        Digest::of(b"dddd"),
        "another file of equal size and time"
    );
}

#[test]
fn a_further_link_keeps_trust_and_a_write_does_not() {
    let scratch = Scratch::new();
    let path = scratch.write("a", "aaaa", Duration::from_secs(3));
    let digests = scratch.digests();
    let marker = Digest::of(b"marker");
    digests.vouch(&path, marker).unwrap();
    fs_err::hard_link(&path, scratch.root.join("b")).unwrap();
    digests.vouch_linked(&path).unwrap();
    assert_eq!(digests.digest(&path).unwrap(), marker);
    fs_err::write(scratch.root.join("b"), "bbbb").unwrap();
    digests.vouch_linked(&path).unwrap();
    assert_eq!(digests.digest(&path).unwrap(), Digest::of(b"bbbb"));
}

#[test]
fn a_damaged_index_is_an_empty_one() {
    let scratch = Scratch::new();
    let path = scratch.write("a", "aaaa", Duration::from_secs(3));
    let index = scratch.root.join("index");
    let digests = scratch.digests();
    digests.vouch(&path, Digest::of(b"marker")).unwrap();
    digests.save(&index).unwrap();
    let whole = fs_err::read(&index).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        fs_err::write(&index, flipped).unwrap();
        assert_eq!(scratch.digests().digest("a".into()).unwrap(), Digest::of(b"aaaa"), "byte {at}");
    }
}

#[test]
fn nothing_is_written_when_nothing_was_learnt() {
    let scratch = Scratch::new();
    let index = scratch.root.join("index");
    scratch.digests().save(&index).unwrap();
    assert!(!index.exists());
}

#[test]
fn files_that_are_gone_are_forgotten() {
    let scratch = Scratch::new();
    let digests = scratch.digests();
    for name in ["a", "b"] {
        let path = scratch.write(name, name, Duration::from_secs(3));
        digests.vouch(&path, Digest::of(name.as_bytes())).unwrap();
    }
    fs_err::remove_file(scratch.root.join("a")).unwrap();
    digests.prune();
    assert!(!scratch.knows(&digests, "a") && scratch.knows(&digests, "b"));
}

#[test]
fn what_is_no_file_is_named() {
    let scratch = Scratch::new();
    let error = scratch.digests().digest(".".into()).unwrap_err().to_string();
    assert_eq!(error, format!("expected a file at {}/., found a directory", scratch.root));
    let error = scratch.digests().digest("none".into()).unwrap_err().to_string();
    assert!(error.contains("none") && error.contains("No such file"), "{error}");
}
