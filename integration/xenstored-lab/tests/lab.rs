//! The lab's xenstored, asked with Xen's own command line tools.

use std::process::Command;

use xenstored_lab::{Guest, XenStored};

fn run(socket: &std::path::Path, command: &[&str]) -> Result<String, String> {
    let output = Command::new(command[0])
        .args(&command[1..])
        .env("XENSTORED_PATH", socket)
        .output()
        .expect("the xenstore-* tools (Debian: xenstore-utils)");
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)
            .expect("text")
            .trim_end()
            .to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn dom0(store: &XenStored, command: &[&str]) -> Result<String, String> {
    run(&store.socket_path(), command)
}

fn domu(guest: &Guest, command: &[&str]) -> Result<String, String> {
    run(&guest.socket_path(), command)
}

#[test]
fn stock_tools_use_it_and_two_do_not_share() {
    let one = XenStored::start().expect("xenstored");
    let two = XenStored::start().expect("xenstored");
    dom0(&one, &["xenstore-write", "/tool/x", "one"]).expect("write");
    assert_eq!(
        dom0(&one, &["xenstore-read", "/tool/x"]).as_deref(),
        Ok("one")
    );
    assert!(dom0(&two, &["xenstore-read", "/tool/x"]).is_err());
}

#[test]
fn a_guest_has_a_guests_rights() {
    let store = XenStored::start().expect("xenstored");
    let guest = store.guest(7).expect("guest");

    dom0(&store, &["xenstore-write", "/local/domain/7/flag", "up"]).expect("write");
    dom0(&store, &["xenstore-write", "/tool/secret", "x"]).expect("write");
    // Relative paths are the guest's own.
    assert_eq!(
        domu(&guest, &["xenstore-read", "flag"]).as_deref(),
        Ok("up")
    );
    assert!(domu(&guest, &["xenstore-write", "flag", "down"]).is_err());
    assert!(domu(&guest, &["xenstore-rm", "flag"]).is_err());
    assert!(domu(&guest, &["xenstore-read", "/tool/secret"]).is_err());
    assert!(domu(&guest, &["xenstore-write", "/tool/x", "1"]).is_err());

    domu(&guest, &["xenstore-write", "data/answer", "done"]).expect("guest writes its data");
    assert_eq!(
        dom0(&store, &["xenstore-read", "/local/domain/7/data/answer"]).as_deref(),
        Ok("done")
    );
    assert_eq!(
        dom0(&store, &["xenstore-read", "/local/domain/7/flag"]).as_deref(),
        Ok("up")
    );
}

#[test]
fn guests_are_apart_and_die_apart() {
    let store = XenStored::start().expect("xenstored");
    let web = store.guest(1).expect("guest");
    let db = store.guest(2).expect("guest");
    domu(&web, &["xenstore-write", "data/x", "1"]).expect("write");
    assert!(domu(&db, &["xenstore-read", "/local/domain/1/data/x"]).is_err());
    drop(web);
    domu(&db, &["xenstore-write", "data/x", "2"]).expect("the other guest lives on");
    store.guest(1).expect("the same domid once more");
}

#[test]
fn a_guest_watches() {
    let store = XenStored::start().expect("xenstored");
    let guest = store.guest(3).expect("guest");
    // Fires once at registration and once for the write.
    let mut watcher = Command::new("xenstore-watch")
        .args(["-n", "2", "data/bell"])
        .env("XENSTORED_PATH", guest.socket_path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("xenstore-watch");
    loop {
        // The watch may not be there yet; ring until it is heard.
        dom0(
            &store,
            &["xenstore-write", "/local/domain/3/data/bell", "ding"],
        )
        .expect("write");
        if let Some(status) = watcher.try_wait().expect("wait") {
            assert!(status.success());
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn after_a_restart_the_store_is_empty() {
    let mut store = XenStored::start().expect("xenstored");
    dom0(&store, &["xenstore-write", "/x", "1"]).expect("write");
    store.restart().expect("restart");
    assert!(dom0(&store, &["xenstore-read", "/x"]).is_err());
}
