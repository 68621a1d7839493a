//! The attributes of one node of a file, by name.

use tract_onnx::pb::{AttributeProto, NodeProto};

use super::TreesError;
use crate::onnx::values;

/// Reads attributes; what is absent is empty.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a>(&'a [AttributeProto]);

impl<'a> Attributes<'a> {
    pub(crate) fn of(node: &'a NodeProto) -> Self {
        Self(&node.attribute)
    }

    fn find(self, name: &str) -> Option<&'a AttributeProto> {
        self.0.iter().find(|attribute| attribute.name == name)
    }

    pub(crate) fn ints(self, name: &str) -> &'a [i64] {
        self.find(name).map_or(&[], |attribute| &attribute.ints)
    }
    pub(crate) fn floats(self, name: &str) -> &'a [f32] {
        self.find(name).map_or(&[], |attribute| &attribute.floats)
    }
    pub(crate) fn texts(self, name: &str) -> &'a [Vec<u8>] {
        self.find(name).map_or(&[], |attribute| &attribute.strings)
    }
    pub(crate) fn int(self, name: &str) -> Option<i64> {
        self.find(name).map(|attribute| attribute.i)
    }
    pub(crate) fn text(self, name: &str) -> Option<&'a [u8]> {
        self.find(name).map(|attribute| attribute.s.as_slice())
    }

    /// Floats that newer files may keep as a tensor under a second name.
    pub(crate) fn floats_or(self, list: &'static str, tensor: &'static str) -> Result<Vec<f32>, TreesError> {
        match self.find(tensor) {
            Some(_) => self.tensor_floats(tensor),
            None => Ok(self.floats(list).to_vec()),
        }
    }

    /// The elements of a tensor of 32-bit floats.
    pub(crate) fn tensor_floats(self, list: &'static str) -> Result<Vec<f32>, TreesError> {
        let Some(tensor) = self.find(list).and_then(|attribute| attribute.t.as_ref()) else {
            return Ok(Vec::new());
        };
        values::floats(tensor).ok_or(TreesError::Precision { list })
    }

    /// The elements of a tensor of whole numbers.
    pub(crate) fn tensor_ints(self, list: &'static str) -> Result<Vec<i64>, TreesError> {
        let Some(tensor) = self.find(list).and_then(|attribute| attribute.t.as_ref()) else {
            return Ok(Vec::new());
        };
        values::integers(tensor).ok_or(TreesError::Precision { list })
    }
}

/// Text of the file as it may stand in an error: short and printable.
pub(super) fn shown(text: &[u8]) -> String {
    const CHARS_MAX: usize = 32;
    String::from_utf8_lossy(text).escape_debug().take(CHARS_MAX).collect()
}
