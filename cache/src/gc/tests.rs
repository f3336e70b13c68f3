use super::*;
use crate::action_cache::Run;
use crate::manifest::Manifest;
use crate::store::{Lookup, Miss};

struct Scratch {
    dir: tempfile::TempDir,
    store: Store,
}

fn scratch() -> Scratch {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Utf8PathBuf::from_path_buf(dir.path().join("store")).unwrap()).unwrap();
    Scratch { dir, store }
}

impl Scratch {
    fn publish(&self, name: &str, content: &str) -> Digest {
        let path = Utf8PathBuf::from_path_buf(self.dir.path().join("output")).unwrap();
        fs_err::write(&path, content).unwrap();
        let mut manifest = Manifest::new();
        manifest.field("argv", "0", name);
        let run = Run {
            tool: "tool".into(),
            exit_code: 0,
            wall_ns: 5,
            finished_at: "2026-01-02T03:04:05Z".into(),
            host: "here".into(),
        };
        self.store.publish(&manifest, &[("output".into(), path)], &[], &run).unwrap().action()
    }

    fn is_hit(&self, action: &Digest) -> bool {
        matches!(self.store.lookup(action).unwrap(), Lookup::Hit(_))
    }

    fn blob_path(&self, content: &str) -> Utf8PathBuf {
        self.store.cas().path(&Digest::of(content.as_bytes()))
    }
}

fn roots(actions: &[Digest]) -> Roots {
    Roots { actions: actions.iter().copied().collect(), blobs: BTreeSet::new(), keep_since: None }
}

#[test]
fn what_is_no_root_goes_and_what_is_shared_stays() {
    let scratch = scratch();
    let kept = scratch.publish("kept", "shared");
    let also = scratch.publish("also", "shared");
    let gone = scratch.publish("gone", "lonely");
    let lock = scratch.store.lock().unwrap();
    fs_err::write(scratch.store.root().join("tmp/left"), "12345").unwrap();

    let expected = Collected { actions_kept: 1, actions_removed: 2, blobs_removed: 1, bytes_freed: 0 };
    let records: u64 =
        [&also, &gone].map(|a| fs_err::metadata(scratch.store.actions().path(a)).unwrap().len()).iter().sum();
    let expected = Collected { bytes_freed: records + 6 + 5, ..expected };
    assert_eq!(scratch.store.collect(&lock, &roots(&[kept]), true).unwrap(), expected);
    assert!([kept, also, gone].iter().all(|a| scratch.is_hit(a)), "a dry run removes nothing");
    assert_eq!(scratch.store.collect(&lock, &roots(&[kept]), false).unwrap(), expected);
    assert!(scratch.is_hit(&kept));
    assert_eq!(scratch.store.lookup(&gone).unwrap(), Lookup::Miss(Miss::NoRecord));
    assert_eq!(scratch.store.cas().list().unwrap(), [Digest::of(b"shared")]);
    let again = scratch.store.collect(&lock, &roots(&[kept]), false).unwrap();
    assert_eq!(again, Collected { actions_kept: 1, ..Collected::default() });
}

#[test]
fn recent_records_and_named_blobs_stay() {
    let scratch = scratch();
    let action = scratch.publish("a", "one");
    let blob = scratch.store.cas().put_bytes(b"two").unwrap();
    let lock = scratch.store.lock().unwrap();
    let written = fs_err::metadata(scratch.store.actions().path(&action)).unwrap().modified().unwrap();
    let mut keep = roots(&[]);
    keep.keep_since = Some(written);
    keep.blobs.insert(blob.digest);
    scratch.store.collect(&lock, &keep, false).unwrap();
    assert!(scratch.is_hit(&action));
    assert_eq!(scratch.store.cas().get(&blob.digest).unwrap(), b"two");
    keep.keep_since = Some(written + std::time::Duration::from_nanos(1));
    scratch.store.collect(&lock, &keep, false).unwrap();
    assert!(!scratch.is_hit(&action));
    assert_eq!(scratch.store.cas().list().unwrap(), [blob.digest]);
}

#[test]
fn verify_finds_what_a_stat_cannot_show() {
    let scratch = scratch();
    let (damaged, whole) = (scratch.publish("damaged", "aaaa"), scratch.publish("whole", "bbbb"));
    let path = scratch.blob_path("aaaa");
    fs_err::write(&path, "AAAA").unwrap();
    // As if the disk had changed the bytes: the stat is the one that was vouched for.
    scratch.store.cas().index().vouch(&path, Digest::of(b"aaaa")).unwrap();
    assert!(scratch.is_hit(&damaged), "the stat shows nothing");

    let lock = scratch.store.lock().unwrap();
    let verified = scratch.store.verify(&lock).unwrap();
    let aside = scratch.store.root().join(format!("quarantine/{}", Digest::of(b"aaaa")));
    assert_eq!((verified.blobs, verified.bytes, verified.actions), (2, 8, 2));
    assert_eq!((verified.quarantined, verified.incomplete), (vec![aside.clone()], vec![damaged]));
    assert_eq!(fs_err::read(aside).unwrap(), b"AAAA");
    assert_eq!(
        scratch.store.lookup(&damaged).unwrap(),
        Lookup::Miss(Miss::MissingBlob { name: "output".into() })
    );
    assert!(scratch.is_hit(&whole));
}

#[test]
fn verify_moves_unreadable_records_aside() {
    let scratch = scratch();
    let action = scratch.publish("a", "aaaa");
    fs_err::write(scratch.store.actions().path(&action), "chariot action 9 0000\n{}").unwrap();
    let found = scratch.store.lookup(&action).unwrap();
    let Lookup::Miss(miss) = found else { panic!("expected a miss, found {found:?}") };
    assert_eq!(
        miss.to_string(),
        r#"its record cannot be used: expected "chariot action 1", found "chariot action 9 0000""#
    );
    let verified = scratch.store.verify(&scratch.store.lock().unwrap()).unwrap();
    assert_eq!(verified.quarantined, [scratch.store.root().join(format!("quarantine/action-{action}"))]);
    assert_eq!(scratch.store.lookup(&action).unwrap(), Lookup::Miss(Miss::NoRecord));
}
