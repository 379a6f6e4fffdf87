//! UEFI boot control: one boot entry per slot, `BootOrder` for the default and `BootNext` for the
//! one-shot trial, which the firmware deletes before it boots.

use std::path::Path;

use efivar::boot::{
    BootEntry, BootEntryAttributes, EFIHardDrive, EFIHardDriveType, FilePath, FilePathList,
};

use crate::boot::esp::Esp;
use crate::boot::variables::{Variables, boot_name};
use crate::disk::{BLOCK, Partition};
use crate::error::{Doing, Error, OrFailed, Result};
use crate::ports::BootControl;
use crate::slot::Slot;

/// The firmware's variables, the ESP with the boot images, and where the ESP lies on its disk.
#[derive(Debug)]
pub struct EfiBoot {
    variables: Variables,
    esp: Esp,
    partition: Partition,
}

impl EfiBoot {
    /// Boot control through the efivarfs mounted at `efivars` and the ESP, which is `partition`
    /// of the disk the firmware boots from.
    pub fn new(efivars: &Path, esp: Esp, partition: Partition) -> Self {
        Self {
            variables: Variables::in_directory(efivars.to_owned()),
            esp,
            partition,
        }
    }

    /// The number of `slot`'s boot entry, which is written if it is missing or differs: another
    /// disk, a restored ESP. Entries of the same name beyond the first are removed.
    fn entry(&self, slot: Slot) -> Result<u16> {
        let name = entry_name(slot);
        let write = || -> std::io::Result<u16> {
            let mut numbers = self.variables.entries(&name)?.into_iter();
            let number = match numbers.next() {
                Some(number) => number,
                None => self.variables.free_number()?,
            };
            for double in numbers {
                self.variables.remove(&boot_name(double))?;
            }
            self.variables
                .write(&boot_name(number), &self.load_option(slot))?;
            Ok(number)
        };
        write().or_failed(|| format!("writing the boot entry `{name}`"))
    }

    /// The EFI_LOAD_OPTION that boots `slot`: Xen takes the section of its embedded
    /// configuration from the option's data, a UCS-2 command line that must end in a NUL.
    fn load_option(&self, slot: Slot) -> Vec<u8> {
        let arguments = format!("xen.efi {}\0", slot.letter());
        BootEntry {
            attributes: BootEntryAttributes::LOAD_OPTION_ACTIVE,
            description: entry_name(slot),
            file_path_list: Some(FilePathList {
                file_path: FilePath {
                    path: format!("\\EFI\\xupg\\{}\\xen.efi", slot.letter()),
                },
                hard_drive: EFIHardDrive {
                    partition_number: self.partition.number,
                    partition_start: self.partition.offset / BLOCK,
                    partition_size: self.partition.bytes / BLOCK,
                    partition_sig: self.partition.guid,
                    format: 2,
                    sig_type: EFIHardDriveType::Gpt,
                },
            }),
            optional_data: arguments
                .encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect(),
        }
        .to_bytes()
    }

    fn slot_of(&self, number: u16) -> Result<Option<Slot>> {
        for slot in Slot::ALL {
            let entries = self
                .variables
                .entries(&entry_name(slot))
                .or_failed(|| "reading the boot entries".to_owned())?;
            if entries.contains(&number) {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }

    fn order(&self) -> Result<Vec<u16>> {
        self.variables
            .numbers("BootOrder")
            .or_failed(|| "reading BootOrder".to_owned())
    }

    fn set_order(&self, order: &[u16]) -> Result<()> {
        let bytes: Vec<u8> = order
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        self.variables
            .write("BootOrder", &bytes)
            .or_failed(|| "writing BootOrder".to_owned())
    }
}

/// What a boot menu shows.
fn entry_name(slot: Slot) -> String {
    format!("xupg slot {}", slot.letter())
}

impl BootControl for EfiBoot {
    fn forbid(&mut self, slot: Slot) -> Result<()> {
        self.cancel_try()?;
        let doomed = self
            .variables
            .entries(&entry_name(slot))
            .or_failed(|| "reading the boot entries".to_owned())?;
        let order: Vec<_> = self
            .order()?
            .into_iter()
            .filter(|number| !doomed.contains(number))
            .collect();
        self.set_order(&order)?;
        self.esp.remove_image(slot)
    }

    fn install_image(&mut self, slot: Slot, root: &Path) -> Result<()> {
        self.esp.install_image(slot, root)?;
        self.entry(slot).map(drop)
    }

    fn try_once(&mut self, slot: Slot) -> Result<()> {
        if !self.esp.has_image(slot) {
            return Err(Error::failed(format!("slot {slot} has no boot image")));
        }
        let number = self.entry(slot)?;
        self.variables
            .write("BootNext", &number.to_le_bytes())
            .or_failed(|| "writing BootNext".to_owned())
    }

    fn cancel_try(&mut self) -> Result<()> {
        self.variables
            .remove("BootNext")
            .or_failed(|| "removing BootNext".to_owned())
    }

    fn make_default(&mut self, slot: Slot) -> Result<()> {
        if !self.esp.has_image(slot) {
            return Err(Error::failed(format!("slot {slot} has no boot image")));
        }
        let mut order = vec![self.entry(slot)?];
        if self.esp.has_image(!slot) {
            order.push(self.entry(!slot)?);
        }
        let others: Vec<_> = self
            .order()?
            .into_iter()
            .filter(|n| !order.contains(n))
            .collect();
        order.extend(others);
        self.set_order(&order)?;
        self.cancel_try()?;
        self.esp
            .set_removable(slot)
            .doing(|| "writing the image for a firmware that has lost its variables".to_owned())
    }

    fn next(&self) -> Result<Option<Slot>> {
        let once = self
            .variables
            .numbers("BootNext")
            .or_failed(|| "reading BootNext".to_owned())?;
        match once.first().or(self.order()?.first()) {
            Some(number) => self.slot_of(*number),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(directory: &Path) -> EfiBoot {
        let efivars = directory.join("efivars");
        let root = directory.join("root/usr/lib/xupg/boot");
        std::fs::create_dir_all(&efivars).unwrap();
        std::fs::create_dir_all(directory.join("esp")).unwrap();
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("xen.efi"), b"MZ image").unwrap();
        let partition = Partition {
            number: 1,
            offset: 1 << 20,
            bytes: 64 << 20,
            guid: uuid::Uuid::nil(),
        };
        EfiBoot::new(&efivars, Esp::mounted_at(directory.join("esp")), partition)
    }

    #[test]
    fn the_load_option_ends_with_the_slot_and_its_nul() {
        let directory = tempfile::tempdir().unwrap();
        let option = boot(directory.path()).load_option(Slot::B);
        let tail: Vec<u8> = "xen.efi b\0"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert!(option.ends_with(&tail));
    }

    #[test]
    fn a_trial_is_one_shot_and_the_default_stays_until_it_is_changed() {
        let directory = tempfile::tempdir().unwrap();
        let mut boot = boot(directory.path());
        let root = directory.path().join("root");
        boot.install_image(Slot::A, &root).unwrap();
        boot.make_default(Slot::A).unwrap();
        boot.install_image(Slot::B, &root).unwrap();
        boot.try_once(Slot::B).unwrap();
        assert_eq!(boot.next().unwrap(), Some(Slot::B));
        boot.variables.remove("BootNext").unwrap();
        assert_eq!(
            boot.next().unwrap(),
            Some(Slot::A),
            "the firmware consumes BootNext"
        );
        boot.make_default(Slot::B).unwrap();
        assert_eq!(boot.next().unwrap(), Some(Slot::B));
        assert_eq!(
            boot.order().unwrap().len(),
            2,
            "the other slot comes after it"
        );
    }

    #[test]
    fn a_forbidden_slot_is_gone_from_order_and_esp_and_others_entries_stay() {
        let directory = tempfile::tempdir().unwrap();
        let mut boot = boot(directory.path());
        let root = directory.path().join("root");
        boot.variables
            .write("Boot0000", b"\x01\0\0\0\0\0U\0i\0\0\0")
            .unwrap();
        boot.set_order(&[0]).unwrap();
        boot.install_image(Slot::A, &root).unwrap();
        boot.install_image(Slot::B, &root).unwrap();
        boot.make_default(Slot::A).unwrap();
        boot.forbid(Slot::B).unwrap();
        assert_eq!(boot.order().unwrap(), [1, 0]);
        assert!(
            boot.try_once(Slot::B).is_err(),
            "without an image there is no trial"
        );
        assert_eq!(boot.next().unwrap(), Some(Slot::A));
    }
}
