//! The lab's keys: made once with `openssl` and `ssh-keygen`, worth nothing outside of the lab.

use crate::cache::{Key, get_or_make};
use crate::command::{command, run};
use crate::efi_vars;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// OVMF's empty variable store.
const VARS_TEMPLATE: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// Change this text when the keys are to be made anew.
const RECIPE: &str = "keys 1";

/// A private key and its certificate, both PEM.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The private key's file.
    pub key: PathBuf,
    /// The certificate's file.
    pub cert: PathBuf,
}

/// Everything that is signed in the lab is signed with one of these.
#[derive(Debug, Clone)]
pub struct Keys {
    dir: PathBuf,
}

impl Keys {
    /// Makes the keys, or finds them.
    ///
    /// # Errors
    /// When a tool fails or the OVMF package is not there.
    pub fn ensure() -> Result<Self> {
        let key = Key::new().with(RECIPE);
        let dir = get_or_make("keys", key, make)?;
        Ok(Self { dir })
    }

    /// Signs boot images; its certificate is in the firmware's db.
    pub fn secure_boot_db(&self) -> Signer {
        self.signer("db")
    }

    /// Signs releases; its issuer is [`Keys::release_ca`].
    pub fn release_signer(&self) -> Signer {
        self.signer("release")
    }

    /// The next release signer, from the same CA: for key change and several signatures.
    pub fn second_signer(&self) -> Signer {
        self.signer("release-next")
    }

    /// Somebody whose signature no node trusts (self-signed).
    pub fn stranger(&self) -> Signer {
        self.signer("stranger")
    }

    /// What nodes trust: goes to `/etc/xupg/trust`.
    pub fn release_ca(&self) -> PathBuf {
        self.dir.join("release-ca.crt")
    }

    /// The private half of the ssh key; the public one is beside it, ending in `.pub`.
    pub fn ssh(&self) -> PathBuf {
        self.dir.join("ssh")
    }

    /// OVMF variables: the lab's keys enrolled, Secure Boot enforcing, no boot entry.
    pub fn ovmf_vars(&self) -> PathBuf {
        self.dir.join("OVMF_VARS.fd")
    }

    fn signer(&self, name: &str) -> Signer {
        Signer {
            key: self.dir.join(format!("{name}.key")),
            cert: self.dir.join(format!("{name}.crt")),
        }
    }
}

fn make(dir: &Path) -> Result<()> {
    for (name, subject) in [
        ("pk", "/CN=xupg lab platform key"),
        ("kek", "/CN=xupg lab key exchange key"),
        ("db", "/CN=xupg lab boot image signer"),
    ] {
        self_signed(dir, name, subject, &[])?;
    }
    let vars = efi_vars::enroll(
        &fs::read(VARS_TEMPLATE).with_context(|| format!("cannot read {VARS_TEMPLATE}"))?,
        &efi_vars::Keys {
            pk: &der(dir, "pk")?,
            kek: &der(dir, "kek")?,
            db: &der(dir, "db")?,
        },
    )?;
    fs::write(dir.join("OVMF_VARS.fd"), vars)?;

    let ca = [
        "basicConstraints=critical,CA:TRUE,pathlen:0",
        "keyUsage=critical,keyCertSign,cRLSign",
    ];
    self_signed(dir, "release-ca", "/CN=xupg lab release CA", &ca)?;
    issued(dir, "release", "/CN=xupg lab release signer")?;
    issued(dir, "release-next", "/CN=xupg lab next release signer")?;
    self_signed(dir, "stranger", "/CN=a stranger", &[])?;

    let ssh = dir.join("ssh");
    run(command(
        "ssh-keygen",
        ["-q", "-t", "ed25519", "-N", "", "-C", "xupg lab", "-f"],
    )
    .arg(ssh))?;
    Ok(())
}

/// Ten years: the lab's tests of expiry use certificates of their own.
fn self_signed(dir: &Path, name: &str, subject: &str, extensions: &[&str]) -> Result<()> {
    let mut openssl = command(
        "openssl",
        [
            "req", "-x509", "-newkey", "rsa:2048", "-sha256", "-nodes", "-days", "3650", "-subj",
            subject,
        ],
    );
    openssl.arg("-keyout").arg(dir.join(format!("{name}.key")));
    openssl.arg("-out").arg(dir.join(format!("{name}.crt")));
    for extension in extensions {
        openssl.args(["-addext", extension]);
    }
    run(&mut openssl)?;
    Ok(())
}

fn issued(dir: &Path, name: &str, subject: &str) -> Result<()> {
    let request = dir.join(format!("{name}.csr"));
    let extensions = dir.join("signer.ext");
    // No extended key usage: `openssl cms -verify` would then insist on S/MIME.
    fs::write(
        &extensions,
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n",
    )?;
    run(command(
        "openssl",
        [
            "req", "-newkey", "rsa:2048", "-sha256", "-nodes", "-subj", subject, "-keyout",
        ],
    )
    .arg(dir.join(format!("{name}.key")))
    .arg("-out")
    .arg(&request))?;
    run(command(
        "openssl",
        [
            "x509",
            "-req",
            "-sha256",
            "-days",
            "3650",
            "-CAcreateserial",
            "-in",
        ],
    )
    .arg(&request)
    .arg("-CA")
    .arg(dir.join("release-ca.crt"))
    .arg("-CAkey")
    .arg(dir.join("release-ca.key"))
    .arg("-extfile")
    .arg(&extensions)
    .arg("-out")
    .arg(dir.join(format!("{name}.crt"))))?;
    fs::remove_file(request)?;
    Ok(())
}

fn der(dir: &Path, name: &str) -> Result<Vec<u8>> {
    run(command("openssl", ["x509", "-outform", "DER", "-in"]).arg(dir.join(format!("{name}.crt"))))
}
