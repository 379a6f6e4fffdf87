//! Who may do what with a node.

/// A node's permissions. New nodes take those of their parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// The domid that owns the node: it may do everything, and its quota pays for the node.
    pub owner: u32,
    /// What domains may do that are named nowhere here. dom0 may always do everything.
    pub others: Access,
    /// What single domains may do, by domid.
    pub granted: Vec<(u32, Access)>,
}

/// What a domain may do with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    None,
    /// Read it.
    Read,
    /// Write it.
    Write,
    /// Both.
    ReadWrite,
}

impl Permissions {
    /// dom0 owns the node and no other domain may read it.
    pub fn private() -> Self {
        Self {
            owner: 0,
            others: Access::None,
            granted: Vec::new(),
        }
    }

    /// dom0 owns the node and one guest may read it.
    pub fn readable_by(domid: u32) -> Self {
        Self {
            owner: 0,
            others: Access::None,
            granted: vec![(domid, Access::Read)],
        }
    }
}
