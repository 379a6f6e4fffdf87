//! Watches, on a real xenstored.

use std::collections::BTreeSet;
use std::time::Duration;

use xen_store::{ErrorKind, Store, Watch, Watcher};
use xenstored_lab::XenStored;

/// Long enough for a loaded machine, and only ever waited for in vain where a test fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to listen for what should not come.
const SILENCE: Duration = Duration::from_millis(300);

fn start() -> (XenStored, Store) {
    let lab = XenStored::start().expect("xenstored");
    let store = Store::open_at(lab.socket_path()).expect("open");
    (lab, store)
}

/// Sets a watch and takes in its first event, which only says that it is set.
fn watch(watcher: &Watcher, path: &str) -> Watch {
    let watch = watcher.watch(path).expect("watch");
    let fired = watcher.next(PATIENCE).expect("the first event");
    assert_eq!(fired, BTreeSet::from([watch.token()]));
    watch
}

#[test]
fn a_change_is_seen_and_by_the_right_watch() {
    let (_lab, store) = start();
    let watcher = store.watcher().expect("watcher");
    let a = watch(&watcher, "/w/a");
    let b = watch(&watcher, "/w/b");
    assert_ne!(a.token(), b.token());
    store.write("/w/b", "x").expect("write");
    assert_eq!(
        watcher.next(PATIENCE).expect("next"),
        BTreeSet::from([b.token()])
    );
    store.write("/w/a/below", "x").expect("write");
    assert_eq!(
        watcher.next(PATIENCE).expect("next"),
        BTreeSet::from([a.token()])
    );
    store.remove("/w/a").expect("remove");
    assert_eq!(
        watcher.next(PATIENCE).expect("next"),
        BTreeSet::from([a.token()])
    );
}

#[test]
fn no_change_is_no_error() {
    let (_lab, store) = start();
    let watcher = store.watcher().expect("watcher");
    let _watch = watch(&watcher, "/w");
    assert_eq!(watcher.next(SILENCE).expect("next"), BTreeSet::new());
}

#[test]
fn a_dropped_watch_is_taken_back() {
    let (_lab, store) = start();
    let watcher = store.watcher().expect("watcher");
    let gone = watch(&watcher, "/w/gone");
    let kept = watch(&watcher, "/w/kept");
    drop(gone);
    store.write("/w/gone", "x").expect("write");
    store.write("/w/kept", "x").expect("write");
    assert_eq!(
        watcher.next(PATIENCE).expect("next"),
        BTreeSet::from([kept.token()])
    );
    assert_eq!(watcher.next(SILENCE).expect("next"), BTreeSet::new());
}

/// A guest may have 128 watches: were one left behind each time, this would meet the quota.
#[test]
fn dropped_watches_are_taken_back_at_xenstored_too() {
    let (lab, _store) = start();
    let guest = lab.guest(5).expect("guest");
    let seen_by_guest = Store::open_at(guest.socket_path())
        .expect("open")
        .with_deadline(PATIENCE);
    let watcher = seen_by_guest.watcher().expect("watcher");
    for n in 0..300 {
        let _watch = watcher
            .watch(&format!("/local/domain/5/data/{n}"))
            .expect("watch");
    }
}

#[test]
fn a_flood_blocks_nobody() {
    let (lab, store) = start();
    let guest = lab.guest(7).expect("guest");
    let flooder = Store::open_at(guest.socket_path())
        .expect("open")
        .with_deadline(PATIENCE);
    let path = "/local/domain/7/data/state";
    let watcher = store.watcher().expect("watcher");
    let flooded = watch(&watcher, path);
    // Nobody reads the watcher meanwhile.
    for n in 0..500 {
        flooder.write(path, n.to_string()).expect("guest's write");
    }
    for n in 0..5000 {
        store.write(path, n.to_string()).expect("write");
    }
    // Other calls work, on the watcher too.
    assert_eq!(store.read(path).expect("read"), b"4999");
    let quiet = watcher.watch("/quiet").expect("watch");
    assert!(
        watcher
            .next(PATIENCE)
            .expect("next")
            .contains(&flooded.token())
    );
    // After all the events are in, it is silent, and it still hears.
    while !watcher.next(SILENCE).expect("next").is_empty() {}
    store.write("/quiet", "x").expect("write");
    assert_eq!(
        watcher.next(PATIENCE).expect("next"),
        BTreeSet::from([quiet.token()])
    );
}

#[test]
fn a_domains_end_is_heard() {
    let (lab, store) = start();
    let guest = lab.guest(4).expect("guest");
    let watcher = store.watcher().expect("watcher");
    let released = watch(&watcher, "@releaseDomain");
    drop(guest);
    assert_eq!(
        watcher.next(PATIENCE).expect("next"),
        BTreeSet::from([released.token()])
    );
}

#[test]
fn it_is_not_silent_when_xenstored_dies() {
    let (mut lab, store) = start();
    let watcher = store.watcher().expect("watcher");
    let _watch = watch(&watcher, "/w");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| watcher.next(PATIENCE));
        lab.kill().expect("kill");
        let error = waiting
            .join()
            .expect("no panic")
            .expect_err("an end, not silence");
        assert_eq!(error.kind(), ErrorKind::Disconnected);
    });
    // And for ever after.
    lab.restart().expect("restart");
    let error = watcher.next(PATIENCE).expect_err("ended");
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    let error = watcher.watch("/w").expect_err("ended");
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    let watcher = store.watcher().expect("a new one");
    let _watch = watch(&watcher, "/w");
}

#[test]
fn a_watcher_without_a_watch_hears_of_the_end_too() {
    let (mut lab, store) = start();
    let watcher = store.watcher().expect("watcher");
    lab.kill().expect("kill");
    let error = watcher.next(PATIENCE).expect_err("an end");
    assert_eq!(error.kind(), ErrorKind::Disconnected);
}

#[test]
fn a_frozen_xenstored_holds_up_nobody() {
    let (lab, store) = start();
    let store = store.with_deadline(SILENCE);
    let watcher = store.watcher().expect("watcher");
    lab.freeze().expect("freeze");
    let error = watcher.watch("/w").expect_err("no answer");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(watcher.next(SILENCE).expect("next"), BTreeSet::new());
    lab.thaw().expect("thaw");
}

#[test]
fn bad_paths_are_refused() {
    let (_lab, store) = start();
    let watcher = store.watcher().expect("watcher");
    for path in ["", "w", "/w/", "/w w", "@", "@x/y"] {
        let error = watcher.watch(path).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::BadPath, "{path:?}");
    }
}

#[test]
fn without_xenstored_there_is_no_watcher() {
    let (mut lab, store) = start();
    lab.kill().expect("kill");
    let error = store.watcher().expect_err("no xenstored");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
