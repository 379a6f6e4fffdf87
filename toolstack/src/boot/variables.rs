//! UEFI variables as files of efivarfs: four bytes of attributes, then the value, in one write.
//!
//! The `efivar` crate encodes boot entries for us; it is not used to read, because it panics on
//! malformed ones, and whatever else is in a node's NVRAM is not ours.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;

/// EFI_GLOBAL_VARIABLE, the vendor of the boot variables (UEFI 2.10, section 3.3).
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Non-volatile, and accessible at boot and at run time.
const ATTRIBUTES: [u8; 4] = [0x07, 0, 0, 0];

/// A mounted efivarfs.
#[derive(Debug, Clone)]
pub(super) struct Variables {
    directory: PathBuf,
}

impl Variables {
    pub(super) fn in_directory(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}-{GLOBAL}"))
    }

    /// The variable's value; `None` where there is no such variable.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(bytes) if bytes.len() >= ATTRIBUTES.len() => {
                Ok(Some(bytes[ATTRIBUTES.len()..].to_vec()))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets the variable, unless it has that value already (flash wears), and reads it again.
    pub(super) fn write(&self, name: &str, value: &[u8]) -> io::Result<()> {
        if self.read(name)?.as_deref() == Some(value) {
            return Ok(());
        }
        let mut bytes = ATTRIBUTES.to_vec();
        bytes.extend_from_slice(value);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path(name))?;
        if file.write(&bytes)? != bytes.len() {
            return Err(io::Error::other("the firmware took only a part of it"));
        }
        drop(file);
        if self.read(name)?.as_deref() != Some(value) {
            return Err(io::Error::other(
                "the firmware does not give back what was written",
            ));
        }
        Ok(())
    }

    /// Removes the variable, if there is one.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A list of boot numbers, as in `BootOrder`.
    pub(super) fn numbers(&self, name: &str) -> io::Result<Vec<u16>> {
        let bytes = self.read(name)?.unwrap_or_default();
        Ok(bytes
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .collect())
    }

    /// The numbers of the `Boot####` variables whose description is `description`.
    pub(super) fn entries(&self, description: &str) -> io::Result<Vec<u16>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let Some(number) = name
                .to_str()
                .and_then(|name| name.strip_prefix("Boot"))
                .and_then(|name| name.strip_suffix(&format!("-{GLOBAL}")))
                .filter(|digits| digits.len() == 4)
                .and_then(|digits| u16::from_str_radix(digits, 16).ok())
            else {
                continue;
            };
            if let Some(option) = self.read(&boot_name(number))?
                && self::description(&option).as_deref() == Some(description)
            {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The lowest boot number that is not taken.
    pub(super) fn free_number(&self) -> io::Result<u16> {
        for number in 0..=u16::MAX {
            if !self.path(&boot_name(number)).exists() {
                return Ok(number);
            }
        }
        Err(io::Error::other("all boot entries are taken"))
    }
}

/// `Boot0003` for 3.
pub(super) fn boot_name(number: u16) -> String {
    format!("Boot{number:04X}")
}

/// The description of an EFI_LOAD_OPTION (UEFI 2.10, section 3.1.3).
fn description(option: &[u8]) -> Option<String> {
    let units: Vec<u16> = option
        .get(6..)?
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|unit| *unit != 0)
        .collect();
    String::from_utf16(&units).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_attributes_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let variables = Variables::in_directory(directory.path().to_owned());
        assert_eq!(variables.read("BootNext").unwrap(), None);
        variables.write("BootNext", &[3, 0]).unwrap();
        let file = directory.path().join(format!("BootNext-{GLOBAL}"));
        assert_eq!(fs::read(file).unwrap(), [7, 0, 0, 0, 3, 0]);
        assert_eq!(variables.numbers("BootNext").unwrap(), [3]);
        variables.remove("BootNext").unwrap();
        variables.remove("BootNext").unwrap();
        assert_eq!(variables.numbers("BootNext").unwrap(), [0; 0]);
    }

    #[test]
    fn malformed_entries_of_others_are_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let variables = Variables::in_directory(directory.path().to_owned());
        for (number, junk) in [
            (0, &[][..]),
            (1, &[1, 2, 3]),
            (2, &[0; 7]),
            (3, &[0xff; 64]),
        ] {
            variables.write(&boot_name(number), junk).unwrap();
        }
        assert_eq!(variables.entries("xupg slot a").unwrap(), [0; 0]);
        assert_eq!(variables.free_number().unwrap(), 4);
    }
}
