//! What lies outside of every image, and the assertion that it is as it was.

use std::fs;

use xupg_images::bundle::Bundle;
use xupg_images::stage;

use super::{Lab, Watcher};
use crate::keys::run;

/// Stages the bundle into a fresh slot and says how that ended.
pub fn outcome(lab: &Lab, bundle: &[u8]) -> Result<(), String> {
    lab.empty_slot(16 << 20);
    let bundle = Bundle::open(bundle, &lab.trust()).map_err(|error| error.to_string())?;
    stage::write_release(bundle, &lab.target(), &Watcher::default())
        .and_then(stage::StagedRoot::finish)
        .map_err(|error| error.to_string())
}

/// Everything outside that an entry could aim at.
pub struct Canary(Vec<u8>);

impl Canary {
    fn look(lab: &Lab) -> Vec<u8> {
        let (victim, active) = (lab.path("victim"), lab.path("active"));
        let all = format!(
            "find {0} {1} /etc/passwd -printf '%p %y %m %U %G %T@ %n %s %l\\n' && \
             find {0} {1} /etc/passwd -type f -exec sha256sum {{}} + && ls -A / /etc",
            victim.display(),
            active.display()
        );
        run("bash", &["-c", &all])
    }

    pub fn set(lab: &Lab) -> Self {
        fs::create_dir_all(lab.path("victim")).unwrap();
        fs::write(lab.path("victim/file"), b"untouched").unwrap();
        Self(Self::look(lab))
    }

    pub fn check(&self, lab: &Lab, row: &str) {
        assert!(
            self.0 == Self::look(lab),
            "{row}: something outside was touched"
        );
    }
}
