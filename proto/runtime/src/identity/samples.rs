//! A fleet for the tests of this crate.

use super::{Ca, Identity, Role};
use tempfile::TempDir;

/// A CA in a folder of its own.
pub(crate) struct Fleet {
    pub(crate) ca: Ca,
    pub(crate) dir: TempDir,
}

impl Fleet {
    pub(crate) fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            ca: Ca::create(&name.parse().unwrap(), dir.path()).unwrap(),
            dir,
        }
    }

    /// An identity that may be dialled as `name`.
    pub(crate) fn identity(&self, role: &Role, name: &str) -> Identity {
        let dir = self.dir.path().join(role.to_string());
        self.ca
            .issue(role, &[name.to_owned(), "127.0.0.1".to_owned()], 1)
            .unwrap()
            .write(&dir)
            .unwrap();
        Identity::load(&dir).unwrap()
    }

    /// The same CA, issuing in the name of another fleet.
    pub(crate) fn forging(mut self, fleet: &str) -> Self {
        self.ca.fleet = fleet.parse().unwrap();
        self
    }
}

pub(crate) fn node() -> Role {
    Role::Node("eu-fra/n1".parse().unwrap())
}

pub(crate) fn operator() -> Role {
    Role::Operator("ada".parse().unwrap())
}
