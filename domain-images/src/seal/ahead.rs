//! Reads directories ahead of those who look into them.
//!
//! Looking a name up waits for its directory's block, one small read after the other, and behind all
//! the large reads of content that are under way. But directories lie close together, so one larger
//! read gets many of them. They come into the device's pages, where the file system looks for them.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use super::content::Device;
use super::extents;

/// Bytes that are read ahead at once.
const REGION: u64 = 256 << 10;
/// Regions that are kept in mind.
const REGIONS: usize = 64;
/// Directories in a region that make us believe that more follow: few that lie apart cost nothing.
const ENOUGH: u32 = 2;

/// Has directories read ahead.
pub(super) struct Ahead<'a> {
    device: &'a Device,
    met: Mutex<Met>,
}

impl<'a> Ahead<'a> {
    pub(super) fn new(device: &'a Device) -> Self {
        Self {
            device,
            met: Mutex::default(),
        }
    }

    /// Has more read when `directory` lies among others. Nothing depends on whether that works.
    pub(super) fn directory(&self, directory: impl AsFd) {
        let Ok(Some(place)) = extents::first(directory) else {
            return;
        };
        let region = place / REGION;
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let count = met.count(region);
        drop(met);
        if count == ENOUGH {
            self.device.read_ahead(region * REGION, REGION);
        }
    }
}

/// Regions of the device and how many directories were met in each, by the region's lower bits.
struct Met([(u64, u32); REGIONS]);

impl Default for Met {
    fn default() -> Self {
        Self([(u64::MAX, 0); REGIONS])
    }
}

impl Met {
    /// Counts one more directory in the region; returns how many that are.
    fn count(&mut self, region: u64) -> u32 {
        let kept = &mut self.0[region as usize % REGIONS];
        if kept.0 != region {
            *kept = (region, 0);
        }
        kept.1 = kept.1.saturating_add(1);
        kept.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_forgotten_for_another_in_its_place() {
        let mut met = Met::default();
        assert_eq!([3, 4, 3, 3].map(|region| met.count(region)), [1, 1, 2, 3]);
        let other = 3 + REGIONS as u64;
        assert_eq!([other, 3, 4].map(|region| met.count(region)), [1, 1, 2]);
    }
}
