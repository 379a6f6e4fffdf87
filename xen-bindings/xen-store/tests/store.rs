//! Single operations and transactions, on a real xenstored.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use xen_store::{Access, Error, ErrorKind, Permissions, Store, VALUE_MAX};
use xenstored_lab::XenStored;

/// Long enough for a loaded machine, and only ever waited for where the wait is the point.
const PATIENCE: Duration = Duration::from_secs(60);

fn start() -> (XenStored, Store) {
    let lab = XenStored::start().expect("xenstored");
    let store = Store::open_at(lab.socket_path()).expect("open");
    (lab, store)
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.expect_err("an error").kind()
}

#[test]
fn what_is_written_is_read() {
    let (_lab, store) = start();
    store.write("/tool/a/b", "value").expect("write");
    assert_eq!(store.read("/tool/a/b").expect("read"), b"value");
    // Parents come by themselves, empty.
    assert_eq!(store.read("/tool/a").expect("read"), b"");
    store.write("/tool/a/b", "").expect("write");
    assert_eq!(store.read("/tool/a/b").expect("read"), b"");
}

#[test]
fn values_are_any_bytes() {
    let (_lab, store) = start();
    let bytes: Vec<u8> = (0..=255).collect();
    store.write("/x", &bytes).expect("write");
    assert_eq!(store.read("/x").expect("read"), bytes);
}

#[test]
fn values_have_a_limit() {
    let (_lab, store) = start();
    let longest = vec![b'x'; VALUE_MAX];
    store.write("/x", &longest).expect("the longest");
    assert_eq!(store.read("/x").expect("read").len(), VALUE_MAX);
    assert_eq!(
        kind(store.write("/x", vec![b'x'; VALUE_MAX + 1])),
        ErrorKind::TooBig
    );
    assert_eq!(store.read("/x").expect("read").len(), VALUE_MAX);
}

#[test]
fn nodes_are_listed_and_removed_with_what_is_below() {
    let (_lab, store) = start();
    for path in ["/d/one", "/d/two", "/d/two/deeper"] {
        store.write(path, "").expect("write");
    }
    store.make("/d/three").expect("make");
    store.make("/d/three").expect("make what is there");
    let mut names = store.list("/d").expect("list");
    names.sort();
    assert_eq!(names, ["one", "three", "two"]);
    assert_eq!(store.list("/d/one").expect("list"), [""; 0]);

    store.remove("/d/two").expect("remove");
    assert!(!store.exists("/d/two/deeper").expect("exists"));
    assert!(store.exists("/d/one").expect("exists"));
    store.remove("/d/two").expect("remove what is not there");
}

#[test]
fn a_directory_longer_than_one_message_is_listed() {
    let (_lab, store) = start();
    let name = |n: u32| format!("a-rather-long-name-of-a-node-{n}");
    for n in 0..300 {
        store
            .write(&format!("/many/{}", name(n)), "")
            .expect("write");
    }
    let mut names = store.list("/many").expect("list");
    names.sort();
    let mut expected: Vec<String> = (0..300).map(name).collect();
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn what_is_missing_is_told_apart() {
    let (_lab, store) = start();
    assert_eq!(kind(store.read("/no")), ErrorKind::NotFound);
    assert_eq!(kind(store.list("/no")), ErrorKind::NotFound);
    assert_eq!(kind(store.permissions("/no")), ErrorKind::NotFound);
    assert_eq!(store.read_optional("/no").expect("no error"), None);
    assert!(!store.exists("/no").expect("exists"));
    let error = store.read("/no").expect_err("an error");
    assert_eq!(error.path(), "/no");
    assert_eq!(error.to_string(), "xenstore: cannot read /no: no such node");
}

#[test]
fn bad_paths_are_refused_before_anyone_is_asked() {
    let (_lab, store) = start();
    for path in [
        "",
        "relative",
        "/two words",
        "/a//b",
        "/a/",
        "/a.b",
        "/\0",
        "@releaseDomain",
    ] {
        assert_eq!(kind(store.read(path)), ErrorKind::BadPath, "{path:?}");
        assert_eq!(kind(store.write(path, "x")), ErrorKind::BadPath, "{path:?}");
    }
}

#[test]
fn permissions_are_set_and_heeded() {
    let (lab, store) = start();
    let guest = lab.guest(7).expect("guest");
    let guest = Store::open_at(guest.socket_path()).map(|seen| (guest, seen));
    let (_guest, seen_by_guest) = guest.expect("the guest's store");

    let path = "/local/domain/7/flag";
    store.write(path, "up").expect("write");
    // Inherited from /local/domain/7.
    let inherited = store.permissions(path).expect("permissions");
    assert_eq!(inherited, Permissions::readable_by(7));
    assert_eq!(seen_by_guest.read(path).expect("read"), b"up");
    assert_eq!(kind(seen_by_guest.write(path, "down")), ErrorKind::Denied);
    assert_eq!(kind(seen_by_guest.remove(path)), ErrorKind::Denied);

    store
        .set_permissions(path, &Permissions::private())
        .expect("set");
    assert_eq!(kind(seen_by_guest.read(path)), ErrorKind::Denied);

    let shared = Permissions {
        owner: 0,
        others: Access::Read,
        granted: vec![(7, Access::ReadWrite), (8, Access::Write)],
    };
    store.set_permissions(path, &shared).expect("set");
    assert_eq!(store.permissions(path).expect("permissions"), shared);
    seen_by_guest.write(path, "down").expect("write");
    assert_eq!(store.read(path).expect("read"), b"down");
}

#[test]
fn a_guest_meets_its_quota() {
    let (lab, _store) = start();
    let guest = lab.guest(9).expect("guest");
    let seen_by_guest = Store::open_at(guest.socket_path())
        .expect("open")
        .with_deadline(PATIENCE);
    let refused = (0..2000)
        .map(|n| seen_by_guest.write(&format!("/local/domain/9/data/{n}"), ""))
        .find_map(Result::err);
    assert_eq!(refused.map(|error| error.kind()), Some(ErrorKind::Quota));
}

#[test]
fn a_transaction_happens_as_one() {
    let (lab, store) = start();
    let other = Store::open_at(lab.socket_path()).expect("open");
    store.write("/t/a", "old").expect("write");
    store
        .transaction(|t| {
            t.write("/t/a", "new")?;
            t.write("/t/b", "new")?;
            t.set_permissions("/t/b", &Permissions::readable_by(3))?;
            assert_eq!(t.read("/t/a")?, b"new");
            assert_eq!(other.read("/t/a")?, b"old", "seen too early");
            assert!(!other.exists("/t/b")?, "seen too early");
            Ok::<_, Error>(())
        })
        .expect("transaction");
    assert_eq!(other.read("/t/a").expect("read"), b"new");
    assert_eq!(other.read("/t/b").expect("read"), b"new");
    assert_eq!(
        other.permissions("/t/b").expect("permissions"),
        Permissions::readable_by(3)
    );
}

#[test]
fn a_failed_transaction_leaves_nothing() {
    let (_lab, store) = start();
    let result = store.transaction(|t| {
        t.write("/t/a", "x")?;
        t.read("/t/missing")
    });
    assert_eq!(kind(result), ErrorKind::NotFound);
    assert!(!store.exists("/t/a").expect("exists"));
    // Ten are allowed at a time to a guest: none may stay open.
    for _ in 0..50 {
        let _ = store.transaction(|t| t.read("/t/missing"));
    }
    store.transaction(|t| t.write("/t/a", "y")).expect("write");
}

#[test]
fn a_transaction_that_collides_is_tried_again() {
    let (lab, store) = start();
    let other = Store::open_at(lab.socket_path()).expect("open");
    store.write("/counter", "1").expect("write");
    let runs = AtomicU32::new(0);
    store
        .transaction(|t| {
            let run = runs.fetch_add(1, Ordering::SeqCst);
            let value = t.read("/counter")?;
            if run == 0 {
                other.write("/counter", "5")?;
            }
            let next = String::from_utf8_lossy(&value)
                .parse::<u32>()
                .expect("digits")
                + 1;
            t.write("/counter", next.to_string())
        })
        .expect("transaction");
    assert_eq!(store.read("/counter").expect("read"), b"6");
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[test]
fn a_transaction_that_always_collides_ends() {
    let (lab, store) = start();
    let other = Store::open_at(lab.socket_path()).expect("open");
    store.write("/counter", "1").expect("write");
    let result = store.transaction(|t| {
        let value = t.read("/counter")?;
        other.write("/counter", "x")?;
        t.write("/counter", value)
    });
    assert_eq!(kind(result), ErrorKind::Conflict);
    assert_eq!(store.read("/counter").expect("read"), b"x");
}

#[test]
fn threads_share_a_store() {
    let (_lab, store) = start();
    store.write("/counter", "0").expect("write");
    std::thread::scope(|scope| {
        for n in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for i in 0..50 {
                    let path = format!("/t/{n}");
                    store.write(&path, i.to_string()).expect("write");
                    assert_eq!(store.read(&path).expect("read"), i.to_string().as_bytes());
                }
            });
        }
    });
}

#[test]
fn without_xenstored_it_says_so() {
    let nowhere = std::env::temp_dir().join("no-xenstored-here/socket");
    let error = Store::open_at(nowhere).expect_err("an error");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.to_string().contains("no xenstored is running"),
        "{error}"
    );
}

#[test]
fn a_killed_xenstored_is_an_error_and_a_new_one_is_found() {
    let (mut lab, store) = start();
    let store = store.with_deadline(PATIENCE);
    store.write("/x", "1").expect("write");
    lab.kill().expect("kill");
    assert_eq!(kind(store.read("/x")), ErrorKind::Disconnected);
    // Its socket is still there, but nobody listens.
    assert_eq!(kind(store.read("/x")), ErrorKind::Unavailable);
    lab.restart().expect("restart");
    assert_eq!(kind(store.read("/x")), ErrorKind::NotFound);
}

#[test]
fn a_frozen_xenstored_is_waited_for_no_longer_than_the_deadline() {
    let (lab, store) = start();
    let store = store.with_deadline(Duration::from_millis(300));
    lab.freeze().expect("freeze");
    assert_eq!(kind(store.read("/x")), ErrorKind::Timeout);
    // This one is on a new connection, which nobody answers either.
    assert_eq!(kind(store.write("/x", "1")), ErrorKind::Timeout);
    assert_eq!(
        kind(store.transaction(|t| t.write("/x", "1"))),
        ErrorKind::Timeout
    );
    lab.thaw().expect("thaw");
    let store = store.with_deadline(PATIENCE);
    store.write("/y", "2").expect("write");
    assert_eq!(store.read("/y").expect("read"), b"2");
}
