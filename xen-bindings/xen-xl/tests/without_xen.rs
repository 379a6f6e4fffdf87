//! On a machine without Xen, the reason is said and nothing is harmed.

use xen_xl::{Error, Xl};

#[test]
fn without_xen_it_says_so() {
    if std::path::Path::new("/proc/xen/capabilities").exists() {
        panic!("this test is for machines without Xen");
    }
    let error = Xl::open().expect_err("no Xen");
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("no Xen"), "{error}");
}

/// libxl must leave our children to us.
#[test]
fn children_are_still_waited_for() {
    let _ = Xl::open().expect_err("no Xen");
    let status = std::process::Command::new("true").status().expect("status");
    assert!(status.success());
}
