//! Certificates and keys, made by the stock `openssl` as a vendor would.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Each test binary uses its own part.

use std::path::{Path, PathBuf};
use std::process::Command;

use xupg_images::TrustStore;
use xupg_images::signature::SigningKey;

/// Runs a program that must succeed, and returns its standard output.
pub fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let done = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    assert!(
        done.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&done.stderr),
        // Where e2fsck complains.
        String::from_utf8_lossy(&done.stdout[..done.stdout.len().min(4096)])
    );
    done.stdout
}

pub struct Keys {
    folder: tempfile::TempDir,
}

impl Keys {
    /// An authority `ca`, trusted, and a signer `vendor`.
    pub fn new() -> Self {
        let keys = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(keys.path("trust")).unwrap();
        keys.authority("ca");
        keys.signer(
            "vendor",
            "ca",
            &["extendedKeyUsage=codeSigning"],
            "-1",
            "3650",
        );
        keys.trust("ca");
        keys
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn authority(&self, name: &str) {
        let (key, pem) = (
            self.text(&format!("{name}.key")),
            self.text(&format!("{name}.pem")),
        );
        let subject = format!("/CN={name}");
        run(
            "openssl",
            &[
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-noenc",
                "-keyout",
                &key,
                "-out",
                &pem,
                "-subj",
                &subject,
                "-days",
                "9999",
                "-addext",
                "keyUsage=critical,keyCertSign",
            ],
        );
    }

    /// Makes a signer's certificate. It is an authority too if the extensions say so.
    pub fn signer(&self, name: &str, issuer: &str, extensions: &[&str], from: &str, days: &str) {
        let file = |ending: &str| self.text(&format!("{name}.{ending}"));
        let subject = format!("/CN={name}");
        let (key, request, pem) = (file("key"), file("csr"), file("pem"));
        let mut new = vec![
            "req", "-newkey", "rsa:2048", "-noenc", "-keyout", &key, "-out", &request, "-subj",
            &subject,
        ];
        for extension in extensions {
            new.extend(["-addext", extension]);
        }
        run("openssl", &new);
        let (ca, ca_key) = (
            self.text(&format!("{issuer}.pem")),
            self.text(&format!("{issuer}.key")),
        );
        // `from` only says whether the certificate has ended: openssl x509 begins today.
        let days = if from == "past" { "-1" } else { days };
        run(
            "openssl",
            &[
                "x509",
                "-req",
                "-in",
                &request,
                "-CA",
                &ca,
                "-CAkey",
                &ca_key,
                "-CAcreateserial",
                "-copy_extensions",
                "copyall",
                "-days",
                days,
                "-out",
                &pem,
            ],
        );
    }

    pub fn trust(&self, name: &str) {
        let pem = format!("{name}.pem");
        std::fs::copy(self.path(&pem), self.path("trust").join(&pem)).unwrap();
    }

    pub fn policy(&self, text: &str) {
        std::fs::write(self.path("trust/policy.json"), text).unwrap();
    }

    pub fn store(&self) -> TrustStore {
        TrustStore::load(&self.path("trust")).unwrap()
    }

    pub fn key(&self, name: &str) -> SigningKey {
        self.key_with_chain(name, &[])
    }

    /// A signer with intermediates behind its certificate.
    pub fn key_with_chain(&self, name: &str, chain: &[&str]) -> SigningKey {
        let mut pem = std::fs::read(self.path(&format!("{name}.pem"))).unwrap();
        for more in chain {
            pem.extend(std::fs::read(self.path(&format!("{more}.pem"))).unwrap());
        }
        let all = self.path(&format!("{name}-chain.pem"));
        std::fs::write(&all, pem).unwrap();
        SigningKey::load(&all, &self.path(&format!("{name}.key"))).unwrap()
    }
}

/// Writes `text` and returns its path.
pub fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}
