//! The lab's releases as signed bundles, and a node's disk made from one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use crate::cache::{Key, get_or_make};
use crate::command::run;
use crate::images::release::{Parts, Release};
use crate::keys::{Keys, Signer};
use crate::product::{COMPATIBLE, Product};
use crate::{paths, progress};

/// MiB of the lab's disk and of the domUs' images.
const DISK_MIB: u64 = 2560;
const WEB_MIB: u64 = 32;
const DB_MIB: u64 = 256;

/// Everything a bundle is made of.
#[derive(Debug, Clone)]
pub struct Factory {
    /// The lab's keys.
    pub keys: Keys,
    /// Kernels and roots.
    pub parts: Parts,
    /// The built programs.
    pub product: Product,
}

/// What is particular to one bundle, beyond its release.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The string that node and bundle must share.
    pub compatible: String,
    /// No release older than this is accepted once this one is confirmed.
    pub floor: String,
    /// Whether `web` and `db` are mandatory.
    pub mandatory: [bool; 2],
    /// Seconds that `web` and `db` get to report good.
    pub health_s: [u32; 2],
    /// Seconds that they get to shut down.
    pub shutdown_s: u32,
    /// `fail` or `destroy`.
    pub on_timeout: &'static str,
    /// Bytes of `db`'s image.
    pub db_bytes: u64,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            compatible: COMPATIBLE.to_owned(),
            floor: "1.0".to_owned(),
            mandatory: [true, true],
            health_s: [300, 300],
            shutdown_s: 90,
            on_timeout: "fail",
            db_bytes: DB_MIB << 20,
        }
    }
}

impl Factory {
    /// Makes everything, or finds it.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn ensure() -> Result<Self> {
        let keys = Keys::ensure()?;
        let parts = Parts::ensure(&keys)?;
        let product = progress::step("building xupg and its agent", Product::build)?;
        Ok(Self {
            keys,
            parts,
            product,
        })
    }

    /// A release with the built programs, their units, and a hook in every domain.
    ///
    /// # Errors
    /// When a file of the product is missing.
    pub fn release(&self, name: &str, version: &str) -> Result<Release> {
        let examples = paths::repo().join("hooks/examples");
        let hook = "/usr/lib/xupg/hook";
        self.product
            .release(&self.keys, name, version)?
            .with_file("dom0", hook, DOM0_HOOK, 0o755)
            .with_copy("web", hook, &examples.join("web-migrate-config"), 0o755)?
            .with_copy("db", hook, &examples.join("db-schema-upgrade"), 0o755)
    }

    /// The release as a bundle, made with `xupg bundle create`.
    ///
    /// # Errors
    /// When the trees or the bundle cannot be made.
    pub fn bundle(&self, release: &Release, terms: &Terms, signer: &Signer) -> Result<PathBuf> {
        let trees = release.trees(&self.parts)?;
        let domu = |name: &str, index: usize, order: u32| {
            json!({
                "config": format!("/etc/xen/{name}.cfg"), "order": order,
                "mandatory": terms.mandatory[index], "quiesce_s": 20,
                "shutdown_s": terms.shutdown_s, "on_timeout": terms.on_timeout,
                "health_s": terms.health_s[index],
            })
        };
        let allow = json!({ "setuid": true, "devices": true, "fifos": true });
        let spec = json!({
            "schema": 1, "release": release.version(), "compatible": terms.compatible,
            "floor": terms.floor, "description": "a release of the lab",
            "payloads": [
                { "domain": "dom0", "source": trees.join("dom0"), "allow": allow,
                  "preserve": ["/etc/dropbear/host_*", "/etc/machine-id", "/etc/xupg"] },
                { "domain": "web", "source": trees.join("web"), "allow": allow,
                  "image": { "bytes": WEB_MIB << 20 }, "domu": domu("web", 0, 10) },
                { "domain": "db", "source": trees.join("db"), "allow": allow,
                  "image": { "bytes": terms.db_bytes }, "domu": domu("db", 1, 20) },
            ],
        });
        let key = Key::new()
            .with("bundle 1")
            .with(spec.to_string())
            .with_path(&signer.cert)?
            .with_path(&self.product.xupg)?;
        let folder = get_or_make(&format!("bundle-{}", release.name()), key, |dir| {
            fs::write(dir.join("spec.json"), spec.to_string())?;
            // Under emulation a fast level is as good as any: the bundle is on this machine.
            run(self
                .product
                .command()
                .args(["bundle", "create", "--level", "3"])
                .arg(dir.join("spec.json"))
                .arg("--cert")
                .arg(&signer.cert)
                .arg("--key")
                .arg(&signer.key)
                .arg("--output")
                .arg(dir.join(format!("release-{}.xupg", release.name()))))?;
            Ok(())
        })?;
        Ok(folder.join(format!("release-{}.xupg", release.name())))
    }

    /// A good release as a bundle.
    ///
    /// # Errors
    /// As [`Factory::bundle`].
    pub fn good(&self, version: &str) -> Result<PathBuf> {
        let release = self.release(version, version)?;
        self.bundle(&release, &Terms::default(), &self.keys.release_signer())
    }

    /// A node's disk with the bundle's release in slot A, made with `xupg install`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn disk(&self, bundle: &Path) -> Result<PathBuf> {
        let key = Key::new()
            .with("disk 1")
            .with(DISK_MIB.to_le_bytes())
            .with(bundle.as_os_str().as_encoded_bytes())
            .with_path(&self.product.xupg)?;
        let folder = get_or_make("disk", key, |dir| {
            let trust = dir.join("trust");
            fs::create_dir(&trust)?;
            fs::copy(self.keys.release_ca(), trust.join("release-ca.pem"))
                .context("copying the trust anchor")?;
            run(self
                .product
                .command()
                .arg("install")
                .arg(dir.join("disk.raw"))
                .arg("--bundle")
                .arg(bundle)
                .arg("--trust")
                .arg(&trust)
                .args(["--size", &DISK_MIB.to_string(), "--esp", "160"]))?;
            Ok(())
        })?;
        Ok(folder.join("disk.raw"))
    }
}

/// dom0's hook in the lab: leaves a line for every run, so that a test can count them.
const DOM0_HOOK: &str = r#"#!/bin/sh
# dom0's hook: notes that it ran, for whom and for what.
set -eu
echo "progress: 50 noting the $XUPG_PHASE of $XUPG_RELEASE"
echo "$XUPG_PHASE $XUPG_TXN $XUPG_FROM_RELEASE->$XUPG_RELEASE" >>/var/lib/xupg-hook.log
echo "progress: 100 noted"
"#;
