//! The trees that are staged.

use crate::cache::{Key, get_or_make};
use crate::command::{command, run};
use anyhow::{Context, Result};
use std::path::PathBuf;

/// Domains and the Debian packages that make their roots about 850 MB in 18,000 entries for dom0, 150 to 250 MB for domUs.
const DOMAINS: [(&str, &str); 4] = [
    (
        "dom0",
        "systemd-sysv,udev,kmod,linux-image-amd64,xen-utils-4.17,xenstore-utils,xen-hypervisor-4.17-amd64,e2fsprogs,iproute2,\
         openssh-server,qemu-system-x86",
    ),
    ("web", "systemd-sysv,nginx-light"),
    ("db", "systemd-sysv,redis-server,python3"),
    ("net", "systemd-sysv,iproute2,nftables,dnsmasq-base"),
];

/// All domains, dom0 first.
pub(super) fn domains() -> impl Iterator<Item = &'static str> {
    DOMAINS.iter().map(|(domain, _)| *domain)
}

/// The root of `domain`, made with mmdebstrap.
///
/// # Errors
/// When mmdebstrap fails; it needs the network.
pub(super) fn root(domain: &str) -> Result<PathBuf> {
    let (_, packages) = DOMAINS
        .iter()
        .find(|(name, _)| *name == domain)
        .with_context(|| format!("no such domain: {domain}"))?;
    let key = Key::new().with("bench root 1").with(packages);
    let dir = get_or_make(&format!("bench-root-{domain}"), key, |dir| {
        let mut mmdebstrap = command(
            "mmdebstrap",
            [
                "--quiet",
                "--variant=minbase",
                "--mode=root",
                "--format=directory",
                "--aptopt=Acquire::Retries \"3\"",
            ],
        );
        mmdebstrap.arg(format!("--include={packages}"));
        run(mmdebstrap.arg("bookworm").arg(dir.join("root")))?;
        Ok(())
    })?;
    Ok(dir.join("root"))
}
