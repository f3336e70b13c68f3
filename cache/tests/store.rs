//! The store through its public face: what it keeps, what it hands out, and what it does about damage.

#![allow(clippy::unwrap_used, reason = "a test may; clippy knows only functions marked as tests")]

mod scratch;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use chariot_cache::{Check, Digest, Error, LINK_MIN_BYTES, Lookup, Miss, Roots};
use proptest::prelude::*;
use scratch::{Rng, Scratch, damage, files_below, is_hit, manifest, publish};

#[test]
fn what_is_published_is_a_hit_now_and_in_the_next_process() {
    let scratch = Scratch::new();
    let store = scratch.store();
    assert_eq!(store.lookup(&manifest(1).digest()).unwrap(), Lookup::Miss(Miss::NoRecord));
    let record = publish(&store, 1, &scratch.root.join("work"));
    assert!(is_hit(&store, 1));
    store.save().unwrap();
    let next = scratch.store();
    assert!(is_hit(&next, 1));
    assert_eq!(next.lookup(&record.action()).unwrap(), Lookup::Hit(Box::new(record)));
    assert_eq!(fs_err::read_dir(scratch.root.join("store/tmp")).unwrap().count(), 0);
}

#[test]
fn a_result_can_answer_for_a_second_key() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let record = publish(&store, 1, &scratch.root.join("work"));
    let mut other = manifest(1);
    other.field("cutoff", "none", "");
    let also = store.publish_also(&other, &record).unwrap();
    assert_eq!((also.action(), also.outputs), (other.digest(), record.outputs));
    assert!(matches!(store.lookup(&other.digest()).unwrap(), Lookup::Hit(_)));
}

#[test]
fn an_output_that_is_missing_or_no_file_is_named_and_publishes_nothing() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let record = publish(&store, 1, &scratch.root.join("work"));
    for (path, message) in [("nowhere", "No such file"), ("work", "found a directory")] {
        let outputs = [("a".into(), scratch.root.join("work/log")), ("b".into(), scratch.root.join(path))];
        let error = store.publish(&manifest(2), &outputs, &[], &record.run).unwrap_err().to_string();
        assert!(error.contains(path) && error.contains(message), "{error}");
    }
    assert!(!is_hit(&store, 2));
    assert_eq!(fs_err::read_dir(scratch.root.join("store/tmp")).unwrap().count(), 0);
}

#[test]
fn an_edit_of_what_was_handed_out_cannot_reach_the_store() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let digest = store.cas().put_bytes(b"from the store").unwrap().digest;
    let dest = scratch.root.join("out/deep/a");
    store.materialise(&digest, &dest).unwrap();
    let metadata = fs_err::metadata(&dest).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o444);
    assert_ne!(metadata.ino(), fs_err::metadata(scratch.blob_path(&digest)).unwrap().ino());
    assert_eq!(store.files().digest(&dest).unwrap(), digest);
    damage(&dest, |bytes| bytes[0] = b'F');
    assert_eq!(store.files().digest(&dest).unwrap(), Digest::of(b"From the store"), "seen at once");
    assert_eq!(store.cas().check(&digest).unwrap(), Check::Whole);
    store.materialise(&digest, &dest).unwrap();
    assert_eq!(fs_err::read(&dest).unwrap(), b"from the store");
    assert_eq!(fs_err::read_dir(dest.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn a_large_file_is_shared_and_an_edit_of_it_is_found() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let source = scratch.root.join("weights");
    fs_err::File::create(&source).unwrap().set_len(LINK_MIN_BYTES).unwrap();
    let blob = store.cas().put_file(&source).unwrap();
    assert_eq!(blob.size_bytes, LINK_MIN_BYTES);
    let dest = scratch.root.join("out/weights");
    for _ in 0..2 {
        store.materialise(&blob.digest, &dest).unwrap();
        assert_eq!(fs_err::read_dir(dest.parent().unwrap()).unwrap().count(), 1, "no temp is left");
    }
    assert_eq!(fs_err::metadata(&dest).unwrap().permissions().mode() & 0o777, 0o444);
    assert_eq!(store.cas().check(&blob.digest).unwrap(), Check::Whole);
    damage(&scratch.blob_path(&blob.digest), |bytes| bytes[12345] = 1);
    let error = store.materialise(&blob.digest, &dest).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert_eq!(store.cas().check(&blob.digest).unwrap(), Check::Missing);
}

#[test]
fn threads_may_put_and_read_the_same_blobs() {
    let scratch = Scratch::new();
    let store = scratch.store();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (store, dir) = (&store, scratch.root.join(format!("work{thread}")));
            scope.spawn(move || {
                for number in 0..10 {
                    publish(store, number, &dir);
                    assert!(is_hit(store, number));
                }
            });
        }
    });
    assert!((0..10).all(|number| is_hit(&store, number)));
    assert!(files_below(&scratch.root.join("store/quarantine")).is_empty());
}

/// Flips a byte of, or cuts, any file of the store, then looks everything up in a fresh process's view.
fn check_damage(seed: u64) {
    let mut rng = Rng(seed);
    let scratch = Scratch::new();
    let store = scratch.store();
    let numbers = 0..4u64;
    let records: BTreeMap<u64, _> =
        numbers.clone().map(|n| (n, publish(&store, n, &scratch.root.join("work")))).collect();
    store.save().unwrap();

    let files = files_below(&scratch.root.join("store"));
    let files: Vec<_> = files.into_iter().filter(|f| fs_err::metadata(f).unwrap().len() > 0).collect();
    let victim = &files[rng.below(files.len() as u64) as usize];
    damage(victim, |bytes| {
        let at = rng.below(bytes.len() as u64) as usize;
        match rng.below(2) {
            0 => bytes[at] ^= 1 << rng.below(8),
            _ => bytes.truncate(at),
        }
    });

    let name = victim.strip_prefix(scratch.root.join("store")).unwrap().as_str().replace(['/'], "");
    let is_hurt = |number: u64| {
        let record = &records[&number];
        name == format!("actions{}", record.action())
            || record.blobs().any(|(_, blob)| name == format!("cas{}", blob.digest))
    };
    let store = scratch.store();
    for number in numbers.clone() {
        assert_eq!(
            is_hit(&store, number),
            !is_hurt(number),
            "seed {seed}: action {number} after damage to {victim}"
        );
    }
    for number in numbers {
        publish(&store, number, &scratch.root.join("work"));
        assert!(is_hit(&store, number), "seed {seed}: running it again heals");
    }
}

#[test]
fn damage_anywhere_is_found_and_never_served() {
    (0..60).for_each(check_damage);
}

#[derive(Debug, Clone)]
enum Op {
    Put(u8),
    PutFile(u8),
    Materialise(u8),
    Damage(u8),
    DamageTogether(u8),
    Collect(Vec<u8>),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let content = 0..4u8;
    prop_oneof![
        3 => content.clone().prop_map(Op::Put),
        3 => content.clone().prop_map(Op::PutFile),
        3 => content.clone().prop_map(Op::Materialise),
        2 => content.clone().prop_map(Op::Damage),
        1 => content.clone().prop_map(Op::DamageTogether),
        1 => prop::collection::vec(content, 0..4).prop_map(Op::Collect),
        1 => Just(Op::Reopen),
    ]
}

fn bytes(content: u8) -> Vec<u8> {
    vec![content; 100 * usize::from(content)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against the simplest model: which contents are there, and whether somebody has damaged them.
    #[test]
    fn blobs_are_there_whole_or_missed(ops in prop::collection::vec(op(), 1..24)) {
        let scratch = Scratch::new();
        let mut store = scratch.store();
        let mut whole = BTreeSet::new();
        let (source, dest) = (scratch.root.join("source"), scratch.root.join("dest"));
        for op in ops {
            match op {
                Op::Put(c) => {
                    prop_assert_eq!(store.cas().put_bytes(&bytes(c)).unwrap().digest, Digest::of(&bytes(c)));
                    whole.insert(c);
                }
                Op::PutFile(c) => {
                    fs_err::write(&source, bytes(c)).unwrap();
                    prop_assert_eq!(store.cas().put_file(&source).unwrap().size_bytes, bytes(c).len() as u64);
                    whole.insert(c);
                }
                Op::Materialise(c) => match store.materialise(&Digest::of(&bytes(c)), &dest) {
                    Ok(()) => {
                        prop_assert!(whole.contains(&c));
                        prop_assert_eq!(fs_err::read(&dest).unwrap(), bytes(c));
                    }
                    Err(Error::Missing { .. } | Error::Damaged { .. }) => prop_assert!(!whole.contains(&c)),
                    Err(error) => panic!("{error}"),
                },
                Op::Damage(c) | Op::DamageTogether(c) => {
                    let path = scratch.blob_path(&Digest::of(&bytes(c)));
                    if c > 0 && path.exists() {
                        damage(&path, |bytes| {
                            let at = bytes.len() / 2;
                            bytes[at..].fill(255);
                        });
                        whole.remove(&c);
                    }
                    if matches!(op, Op::DamageTogether(_)) && scratch.root.join("store/index/blobs").exists() {
                        damage(&scratch.root.join("store/index/blobs"), |bytes| bytes.reverse());
                    }
                }
                Op::Collect(kept) => {
                    let blobs = kept.iter().map(|&c| Digest::of(&bytes(c))).collect();
                    let roots = Roots { actions: BTreeSet::new(), blobs, keep_since: None };
                    store.collect(&store.lock().unwrap(), &roots, false).unwrap();
                    whole.retain(|c| kept.contains(c));
                }
                Op::Reopen => {
                    store.save().unwrap();
                    store = scratch.store();
                }
            }
            for c in 0..4 {
                let is_whole = store.cas().check(&Digest::of(&bytes(c))).unwrap() == Check::Whole;
                prop_assert_eq!(is_whole, whole.contains(&c), "content {}", c);
                prop_assert_eq!(store.cas().get(&Digest::of(&bytes(c))).ok(), is_whole.then(|| bytes(c)));
            }
        }
        prop_assert!(files_below(&scratch.root.join("store/tmp")).is_empty());
    }
}
