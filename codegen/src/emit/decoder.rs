//! The host's traits and dispatch.
use super::Out;
use crate::Model;

pub(super) fn dispatch(_model: &Model) -> String {
    Out::default().finish()
}
